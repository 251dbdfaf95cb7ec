import math

import pytest

from dashboards.formatting import (
    MISSING,
    counted,
    duration,
    metric_factor,
    metric_name,
    metric_title,
    metric_unit,
    moment,
    percent_with_spread,
    shown_metric,
    shown_number,
    shown_setting,
    with_spread,
)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("child_val_error", 0.1234, "12.34%"),
        ("discretization_gap", 0.05, "+5.00 percentage points"),
        ("child_madds", 573_000_000, "573 M"),
        ("child_params", 3_345_678, "3.35 M"),
        ("child_params", 5432, "5.43 k"),
        ("child_memory_access", 0.0, "0 elements"),
        ("temperature", 0.03, "0.03"),
        ("latency_of_somebody", 1234.5678, "1235"),
        ("child_val_error", 0.0, "0.00%"),
        ("child_val_error", None, MISSING),
        ("child_val_error", math.nan, MISSING),
    ],
)
def test_shown_metric_has_its_unit(metric, value, text):
    assert shown_metric(metric, value) == text


def test_mean_and_spread_have_one_unit_and_the_sign_is_the_means():
    assert with_spread(1.25, 0.5, "{:+.2f}", " points") == "+1.25 ± 0.50 points"
    assert with_spread(3.0, None, "{:.1f}", "%") == "3.0%"
    assert percent_with_spread(0.9638, 0.0012) == "96.38 ± 0.12%"
    assert percent_with_spread(0.1, 0.0) == "10.00 ± 0.00%"
    assert percent_with_spread(None, None) == MISSING


def test_metrics_have_names_units_and_factors_and_unknown_ones_keep_theirs():
    assert metric_name("child_madds") == "multiply-adds"
    assert metric_title("child_madds") == "multiply-adds (millions)"
    assert metric_title("temperature") == "temperature"
    assert metric_factor("child_madds") == 1e-6
    assert (metric_name("my_metric"), metric_unit("my_metric"), metric_factor("my_metric")) == ("my metric", "", 1.0)


@pytest.mark.parametrize(
    ("value", "text"), [(None, MISSING), (0.00123456, "0.00123"), ("cosine", "cosine"), (0.0, "0"), (64.0, "64")]
)
def test_shown_number(value, text):
    assert shown_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, MISSING),
        (math.nan, MISSING),
        (math.inf, MISSING),
        (-1, MISSING),
        (0, "under 1 s"),
        (1, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599.7, "1 h"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86_400 + 3 * 3600 + 59, "1 d 3 h"),
        (40 * 86_400, "40 d"),
    ],
)
def test_duration_in_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_moment_is_utc():
    assert moment(0) == "1970-01-01 00:00 UTC"
    assert moment(1_790_100_000) == "2026-09-22 18:00 UTC"
    assert moment(None) == MISSING


def test_counted_takes_the_right_noun():
    assert counted(1, "search", "searches") == "1 search"
    assert counted(0, "search", "searches") == "0 searches"
    assert counted(1200, "trial") == "1,200 trials"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("penalty.strength", 0.01, "penalty.strength 0.01"),
        ("order", "first", "order first"),
        ("network.primitives", "none skip_connect", "2 operations"),
        ("network.primitives", ["none", "skip_connect"], "2 operations"),
        ("network.primitives", "skip_connect sep_conv_3x3", "2 operations without none"),
    ],
)
def test_settings_are_short(key: str, value: object, shown: str) -> None:
    assert shown_setting(key, value) == shown
