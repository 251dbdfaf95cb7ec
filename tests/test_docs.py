from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.config import load_study

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


def test_studies_of_the_issue_are_there() -> None:
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
