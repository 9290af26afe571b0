"""Imports inside the package point one way, and the core needs torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dni

PACKAGE = Path(dni.__file__).parent
ORDER = [
    "errors",
    "files",
    "scripts",
    "backward_end",
    "passes",
    "sums",
    "boundary",
    "listeners",
    "synthesizers.base",
    "synthesizers.linear",
    "synthesizers.conv",
    "synthesizers.recurrent",
    "synthesizers.means",
    "synthesizers.critic",
    "synthesizers.label_free",
    "synthesizers.least_squares",
    "synthesizers.choose",
    "synthesizers",
    "linear_head",
    "closed_form",
    "foresight",
    "blind",
    "context",
    "metered",
    "predictor",
    "interface",
    "meters",
    "sites",
    "mixing",
    "interfaces",
    "optimizers",
    "fused_adam",
    "network_optimizer",
    "synthesizer_optimizer",
    "attachment",
    "checkpoint",
    "arguments",
    "unlock",
    "activations",
    "forward",
    "draw",
    "frozen",
    "updates",
    "base_wrapper",
    "calls",
    "traced_unlock",
    "crossing",
    "guards",
    "compiled",
    "wrapper",
    "states",
    "arrival",
    "window",
    "linear_map",
    "window_updates",
    "carry",
    "expectation",
    "compiled_seam",
    "seam",
    "window_arguments",
    "windowed",
    "temporal",
    "vision",
    "trainer.registry",
    "trainer.when",
    "trainer.schedules",
    "trainer.curves",
    "trainer.plateau",
    "trainer.state",
    "trainer.record",
    "trainer.events",
    "trainer.strict",
    "trainer.ordering",
    "trainer.signals",
    "trainer.randomness",
    "trainer.modes",
    "trainer.counters",
    "trainer.datasets",
    "trainer.data",
    "trainer.fingerprint",
    "trainer.evaluation",
    "trainer.output_writer",
    "trainer.networks",
    "trainer.injectors",
    "trainer.recurrent",
    "trainer.tensor_injectors",
    "trainer.losses",
    "trainer.image_losses",
    "trainer.gan_losses",
    "trainer.optimization",
    "trainer.strategies",
    "trainer.backprop",
    "trainer.blocks",
    "trainer.dni_strategy",
    "trainer.temporal_strategy",
    "trainer.terms",
    "trainer.base_step",
    "trainer.steps",
    "trainer.function_step",
    "trainer.template_iterator",
    "trainer.phases",
    "trainer.targets",
    "trainer.checkpoint",
    "trainer.interruption",
    "trainer.iteration",
    "trainer.validation",
    "trainer.training",
    "trainer.loop",
    "trainer.trainer",
    "trainer",
    "trainer.callbacks.tally",
    "trainer.callbacks.metrics",
    "trainer.callbacks.stopping",
    "trainer.callbacks.csvlog",
    "trainer.callbacks.tensorboard",
    "trainer.callbacks.progress",
    "trainer.callbacks.images",
    "trainer.callbacks.traces",
    "trainer.callbacks.dni_statistics",
    "trainer.callbacks.ema",
    "trainer.callbacks.checkpointing",
    "trainer.callbacks.sanity",
    "trainer.callbacks.lr_finder",
    "trainer.callbacks.profiler",
    "trainer.callbacks",
    "trainer.findings",
    "trainer.evaluators",
    "trainer.outputs",
    "trainer.step_op",
    "trainer.values",
    "trainer.schema",
    "trainer.places",
    "trainer.yaml_files",
    "trainer.overrides",
    "trainer.config",
    "trainer.reference",
    "trainer.run",
    "trainer.making",
    "trainer.step_builder",
    "trainer.keys",
    "trainer.build",
    "trainer.plot",
    "trainer.cli",
    "trainer.commands.doctor",
    "trainer.commands.evaluating",
    "trainer.commands.listing",
    "trainer.commands.plotting",
    "trainer.commands.resuming",
    "trainer.commands.running",
    "trainer.commands",
]
"""A file imports only from those before it. A new file gets its place here."""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str, path: Path) -> Iterator[str]:
    """The files of the package that a file imports.

    In the core these include what is imported for type checking and within functions. In the
    trainer only those at the top count: callbacks name the type of the trainer they are given,
    and commands import what they need when they run, so that `dni --help` is there at once.
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    is_core = name.partition(".")[0] != "trainer"
    for node in ast.walk(tree) if is_core else tree.body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = [p for p in package if p][: len([p for p in package if p]) + 1 - node.level]
            start = ["dni", *above] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            below = [f"{base}.{alias.name}" for alias in node.names]
            # `from . import file` takes the file; `from .package import name` the package.
            is_file = [module.removeprefix("dni.") in FILES for module in below]
            modules = below if all(is_file) else [base, *below]
        else:
            continue
        for module in modules:
            inside = module.removeprefix("dni.")
            if module.startswith("dni.") and inside in FILES:
                yield inside


def test_every_file_has_its_place_in_the_order() -> None:
    assert set(FILES) - {""} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", [name for name in FILES if name])
def test_a_file_imports_only_from_files_before_it(name: str) -> None:
    assert name in ORDER
    before = ORDER[: ORDER.index(name)]
    assert [other for other in imported(name, FILES[name]) if other not in before] == []


def test_the_imports_are_found_at_all() -> None:
    assert {"errors", "synthesizers.base"} <= set(
        imported("synthesizers.recurrent", FILES["synthesizers.recurrent"])
    )
    assert {"interfaces", "updates", "sites"} <= set(imported("wrapper", FILES["wrapper"]))
    assert "checkpoint" in set(imported("wrapper", FILES["wrapper"]))  # from . import checkpoint
    assert "wrapper" in set(imported("", FILES[""]))


def test_the_core_does_not_know_the_trainer() -> None:
    for name, path in FILES.items():
        if name.partition(".")[0] != "trainer":
            assert not [other for other in imported(name, path) if other.startswith("trainer")]


def test_no_imports_go_round_in_a_circle() -> None:
    edges = {name: set(imported(name, path)) - {name} for name, path in FILES.items()}
    while free := [name for name, needs in edges.items() if not needs & set(edges)]:
        for name in free:
            del edges[name]
    assert edges == {}


@pytest.mark.parametrize("module", ["dni", "dni.trainer", "dni.trainer.callbacks"])
def test_importing_the_package_imports_no_optional_library(module: str) -> None:
    optional = ["torchvision", "matplotlib", "sklearn", "omegaconf", "pydantic"]
    optional += ["torchmetrics", "tensorboard", "ignite"]
    if module == "dni":
        optional += ["dni.trainer"]
    code = f"import sys, {module}; print([m for m in {optional} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_with_one_sentence(name: str) -> None:
    doc = ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))
    assert doc
    assert doc.splitlines()[0].endswith(".")
