"""Everything that docs/trainer.md shows runs as it stands there."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dni.trainer.build import build_trainer
from dni.trainer.config import load_config
from dni.trainer.run import Run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^### ([^\n]+)$|^```(yaml|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The blocks of a language, each with the heading it follows."""
    heading = ""
    for match in BLOCK.finditer(PAGE):
        heading = match[1] or heading
        if match[2] == language:
            yield heading, match[3]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the page's Python makes up."""
    source = "\n\n".join(block for _, block in blocks("python"))
    (tmp_path / "parts.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("parts")


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=heading) for heading, block in blocks("yaml")]
)
def test_a_concepts_example_trains(block: str, parts: ModuleType, tmp_path: Path) -> None:
    example = tmp_path / "example.yaml"
    example.write_text(block, encoding="utf-8")
    base = ROOT / "tasks" / "mnist" / "configs" / "fcn.yaml"
    overrides = [("train/max_steps", "12"), ("log/progress", "false")]
    loaded = load_config([base, example], overrides)
    trainer = build_trainer(loaded, Run.create(tmp_path, "page"))
    assert trainer.fit() == "max_steps"
    assert trainer.counters.step == 12


def test_the_trainer_without_a_config_runs(parts: ModuleType) -> None:
    assert parts.trainer.fit() == "max_epochs"
    assert parts.net.updates == parts.trainer.counters.step == 8
