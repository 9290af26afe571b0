"""What the repository says about itself holds: README, pins, and what is in its files."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:home|root|Users|tmp|work|farm)/\w")


class WhateverNetwork(nn.Module):
    """The network README leaves to the reader: 784 pixels to 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.output = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, 10]``."""
        scores: Tensor = self.output(self.hidden(images.flatten(1)))
        return scores


def readme_examples() -> list[Any]:
    """README's Python blocks, each under the heading it follows."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples, title = [], ""
    for match in re.finditer(
        r"^### ([^\n]+)$|^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        title = match[1] or title
        if match[2]:
            examples.append(pytest.param(match[2], id=title.lower().replace(" ", "-")))
    return examples


@pytest.mark.parametrize("example", readme_examples())
def test_readme_example_trains_every_layer(example: str) -> None:
    untrained, trained = parameters_after(example, epochs=0), parameters_after(example, epochs=2)
    assert untrained
    for name, value in untrained.items():
        assert trained[name].isfinite().all(), name
        assert not torch.equal(trained[name], value), name


def parameters_after(example: str, *, epochs: int) -> dict[str, Tensor]:
    """The network's parameters, synthesizers left out, when an example has run."""
    torch.manual_seed(0)
    batches = [(torch.randn(8, 1, 28, 28), torch.randint(10, (8,))) for _ in range(3)]
    names = {"WhateverNetwork": WhateverNetwork, "batches": batches, "epochs": epochs}
    # What is only measured after training has nothing to measure without.
    training = example if epochs else example.partition("\nprint(")[0]
    exec(compile(training, "README.md", "exec"), names)
    net = names["net"]
    assert isinstance(net, nn.Module)
    kept = {k: v for k, v in net.named_parameters() if "interfaces." not in k}
    return {k: v.detach().clone() for k, v in kept.items()}


def test_the_example_of_choosing_runs() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(example, "choosing.md", "exec"), names)
    assert names["net"].updates == 1


def test_pins_lie_in_the_ranges() -> None:
    try:
        required = [Requirement(text) for text in metadata.requires("torch-dni") or []]
    except metadata.PackageNotFoundError:
        pytest.skip("the package is not installed; `make test` installs it")
    pins = {}
    for text in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if text and not text.startswith("#"):
            name, version = text.split("==")
            pins[name] = version
    extras = ("", "vision", "tasks", "trainer", "dev")
    wanted = [
        need
        for need in required
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    assert {"numpy", "torch", "torchvision", "pytest"} <= {need.name for need in wanted}
    for need in wanted:
        assert need.specifier.contains(pins[need.name]), need


def test_no_tracked_file_names_a_path_of_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".png", ".svg"} or not path.is_file():
            continue
        found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{name}: {found}"
