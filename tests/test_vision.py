"""torchvision comes in whether or not it was built for the torch that is installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dni.vision import import_torchvision

NEEDS_OPERATOR = """
    import torch
    from torchvision import extension

    try:
        torch.ops.torchvision.nms
    except AttributeError:
        raise RuntimeError("operator torchvision::nms does not exist") from None
    torch.ops.torchvision.qnms
    loads = extension.loads
"""


def run_python(code: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, with warnings as errors and `path` first on sys.path."""
    prelude = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path else ""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def fake_torchvision(folder: Path, source: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(source), encoding="utf-8")
    (package / "extension.py").write_text("loads = object()\n", encoding="utf-8")
    return folder


def test_importing_dni_does_not_import_torchvision() -> None:
    done = run_python("import dni, dni.vision, sys; assert 'torchvision' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_datasets_transforms_and_models_work() -> None:
    done = run_python("""
        import torch
        from dni.vision import import_torchvision

        torchvision = import_torchvision()
        assert import_torchvision() is torchvision
        assert torchvision.datasets.MNIST and torchvision.transforms.ToTensor
        assert torchvision.models.resnet18()(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    """)
    assert done.returncode == 0, done.stderr


def test_missing_operators_are_declared_and_the_half_import_forgotten(tmp_path: Path) -> None:
    done = run_python(
        """
        import sys
        try:
            import torchvision
        except RuntimeError:
            before = sys.modules["torchvision.extension"]
        from dni import vision

        torchvision = vision.import_torchvision()
        assert sys.modules["torchvision.extension"] is not before
        assert torchvision.loads is sys.modules["torchvision.extension"].loads
        assert vision._declarations is not None
        """,
        path=fake_torchvision(tmp_path, NEEDS_OPERATOR),
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_with_matching_builds(tmp_path: Path) -> None:
    done = run_python(
        """
        import torch
        from dni import vision

        assert vision.import_torchvision().__name__ == "torchvision"
        assert vision._declarations is None and not hasattr(torch.ops.torchvision, "nms")
        """,
        path=fake_torchvision(tmp_path, ""),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("raised", ["RuntimeError('no CUDA')", "ModuleNotFoundError(name='PIL')"])
def test_other_failures_pass_unchanged(tmp_path: Path, raised: str) -> None:
    done = run_python(
        "from dni.vision import import_torchvision; import_torchvision()",
        path=fake_torchvision(tmp_path, f"raise {raised}"),
    )
    assert raised.partition("(")[0] in done.stderr.splitlines()[-1]
    assert "torch-dni[vision]" not in done.stderr


def test_missing_torchvision_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"pip install torch-dni\[vision\]"):
        import_torchvision()
