"""The JSON schema of study files: published, and of one mind with the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.errors import ConfigError
from orchestrator.study_file.json_schema import schema_text, study_schema
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.templates import SCHEMA_LINE, templates
from tests.orchestrator.tiny import snas, study_data

ROOT = Path(__file__).parents[3]
SCHEMA = study_schema()


def is_valid(data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(data))


def leaves(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, section in [("study", schema), *schema["$defs"].items()]:
        for key, entry in section.get("properties", {}).items():
            yield f"{name}.{key}", entry


def test_published_copy_is_what_the_command_prints() -> None:
    published = (ROOT / "docs" / "study.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "snas study schema > docs/study.schema.json"


@pytest.mark.parametrize("name", templates())
def test_templates_name_the_schema_and_keep_it(name: str) -> None:
    text = templates()[name]
    assert (ROOT / "studies" / text.splitlines()[0].removeprefix(SCHEMA_LINE)).is_file()
    assert is_valid(yaml.safe_load(text))


def test_every_key_is_described_and_no_number_lacks_a_rule() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert [key for key, entry in leaves(SCHEMA) if not entry.get("description")] == []
    numbers = {
        key: {bound for part in (entry, *entry.get("anyOf", ())) for bound in part if "inimum" in bound}
        for key, entry in leaves(SCHEMA)
        if any(part.get("type") in ("integer", "number") for part in (entry, *entry.get("anyOf", ())))
    }
    assert len(numbers) > 100
    across = {"PenaltyOptions.off_epoch", "RegularisedEvolutionOptions.sample", "SposOptions.top_k", "study.trials"}
    across |= {"RetrainSection.top", "TemperatureOptions.end", "ThetaOptions.lr_min"}  # their rules name other keys
    across |= {"Target.value"}  # any number
    assert {key for key, bounds in numbers.items() if not bounds} == across


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"scheduler": "asha"}, True),
        ({"scheduler": "ash"}, False),
        ({"name": "a b"}, False),
        ({"seed": 2**31}, False),
        ({"epochs": 3}, False),
        ({"max_concurrent": 0}, False),
        ({"resources": {"gpu": "auto", "memory_gb": None}}, True),
        ({"resources": {"gpu": -1}}, False),
        ({"search": {"epochs": 0}}, False),
        ({"search": {"seed": 1}}, False),
        ({"search": {"penalty": {"strength": "mild"}}}, True),
        ({"search": {"dataset": {"validation_fraction": 1.0}}}, False),
        ({"search": {"strategy": {"kind": "dsnas", "stop_margin": 1.5}}}, False),
        ({"search": {"strategy": {"kind": "snass"}}}, False),
        ({"sweep": {"penalty.strength": {"choice": [0.1, 0.2], "when": {}}}}, True),
        ({"sweep": {"penalty.strenght": {"choice": [0.1, 0.2]}}}, False),
        ({"sweep": {"penalty.strength": {"log_uniform": [0.1]}}}, False),
        ({"retrain": {"top": "front", "momentum": 1.0}}, False),
    ],
    ids=str,
)
def test_schema_and_rules_agree(changes: dict[str, Any], holds: bool) -> None:
    data = study_data(**changes)
    assert is_valid(data) == holds
    if holds:
        parse_study(data)
    else:
        with pytest.raises(ConfigError):
            parse_study(data)


def test_init_writes_the_schema_that_its_first_line_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert snas("init", "quickstart", file).code == 0
    named = file.read_text(encoding="utf-8").splitlines()[0].removeprefix(SCHEMA_LINE)
    assert (tmp_path / named).read_text(encoding="utf-8") == schema_text()
    (tmp_path / named).write_text("mine", encoding="utf-8")
    assert snas("init", "quickstart", tmp_path / "other.yaml").code == 0
    assert (tmp_path / named).read_text(encoding="utf-8") == "mine"
