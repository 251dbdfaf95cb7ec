from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined, to_jsonable_python

from orchestrator.study_file.loading import RecurrentStudy, load_study
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.validation import fields_of
from search_core.space.codes import genotype_space
from search_core.space.genotype import PUBLISHED
from search_core.space.plan import NetworkOptions
from search_core.strategies.registry import MULTI_TRIAL, STRATEGIES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_has_no_dead_link_and_no_blank(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.strip()
    assert "@@" not in text
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.stem)
def test_study_is_valid_and_headed_by_its_purpose(study: Path) -> None:
    load_study(study)
    assert study.read_text(encoding="utf-8").startswith("# ")


def test_studies_are_there() -> None:
    assert {study.stem for study in STUDIES} >= {
        "quickstart",
        "fashion_mnist_penalty_sweep",
        "cifar10_penalty_sweep",
        "cifar10_temperature_schedules",
        "imagenet_transfer",
    }


def test_annotated_study_of_the_readme_is_the_quickstart(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "shown.yaml"
    file.write_text(shown, encoding="utf-8")
    assert load_study(file) == load_study(ROOT / "studies" / "quickstart.yaml"), yaml.safe_load(shown)


def test_page_of_the_study_file_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
    documented: dict[str, Any] = {}
    for title, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE):
        prefix = "" if title == "The root" else f"{title.strip('`')}."
        for key, default, meaning in re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE):
            assert meaning.strip(), key
            documented[f"{prefix}{key}"] = default if default == "required" else yaml.safe_load(default.strip("`"))
    known = {key: default for key, default in _defaults(StudySpec, "") if not key.startswith("search.strategy.")}
    known["search.strategy.kind"] = "snas"
    del known["search.seed"]  # it is the study's
    assert documented == known


def test_settings_of_the_papers_spaces_hold_the_published_cells() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    settings = [yaml.safe_load(line) for line in re.findall(r"^network: \{space: .*\}$", page, re.MULTILINE)]
    members: dict[str, list[str]] = {"nasnet": ["NASNet", "AmoebaNet", "ENAS"], "enas": ["ENAS"], "nas_chain": []}
    assert [setting["network"]["space"] for setting in settings] == list(members)
    for setting in settings:
        network = TypeAdapter(NetworkOptions).validate_python(setting["network"])
        for name in members[network.space]:
            genotype_space(network).encode(PUBLISHED[name])


@pytest.mark.parametrize("kind", STRATEGIES)
def test_page_of_strategies_has_every_key_with_its_default(kind: str) -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    heading = f"#### `{kind}`\n"
    assert heading in page
    parts = [page.split(heading)[1].split("\n#### ")[0].split("\n### ")[0]]
    if kind in MULTI_TRIAL:
        parts.append(page.split("\n### Multi-trial\n")[1].split("\n#### ")[0])
    rows = [row for part in parts for row in re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| (.*?) \|$", part, re.MULTILINE)]
    documented = {key: yaml.safe_load(default) for key, default, _ in rows}
    known = {key: default for key, default in _defaults(STRATEGIES[kind], "") if key != "kind"}
    if kind == "nasnet":
        assert known["estimate.drop_path"] == 0.2, "stated in its text"
        known["estimate.drop_path"] = 0.0
    assert documented == known
    assert all(meaning.strip() for _, _, meaning in rows)


def test_page_of_recurrent_cells_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "recurrent.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (?:`(.*?)`)? ?\| (?:`(.*?)`)? ?\| .+ \|$", page, re.MULTILINE)
    cells = {
        f"{section}.{key}": text for key, *row in rows for section, text in zip(("search", "retrain"), row, strict=True)
    }
    documented = {key: yaml.safe_load(text) for key, text in cells.items() if text}
    assert documented.pop("search.strategy") == {"kind": "snas"}
    elsewhere = ("text.", "seed", "search.strategy.", "search.temperature.")
    known = {key: default for key, default in _defaults(RecurrentStudy, "") if not key.startswith(elsewhere)}
    assert documented == known


def _defaults(schema: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and default of every value, as plain data; `required` if there is none."""
    for name, kind in fields_of(schema).items():
        key = f"{prefix}{name}"
        if fields_of(kind):
            section = next(part for part in (kind, *get_args(kind)) if isinstance(part, type))
            yield from _defaults(section, f"{key}.")
        else:
            default = _default(schema, name)
            is_required = default is MISSING or default is PydanticUndefined
            yield key, "required" if is_required else to_jsonable_python(default)


def _default(schema: Any, name: str) -> Any:
    if issubclass(schema, BaseModel):
        return schema.model_fields[name].get_default(call_default_factory=True)
    field = schema.__dataclass_fields__[name]
    return field.default if field.default_factory is MISSING else field.default_factory()
