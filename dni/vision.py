"""Imports torchvision, also where it was built for another kind of torch than the one installed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from torch import library

# What torchvision's compiled part declares and its Python part refers to at import time.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_SYMPTOM = "operator torchvision::nms does not exist"

# torch takes a library's declarations back when its object dies: this one stays with the module.
_declarations: library.Library | None = None


def import_torchvision() -> ModuleType:
    """Import torchvision and return it; declare the operators it misses, only if it misses them.

    pip's default torchvision for Linux is compiled against a CUDA torch. Beside a CPU-only torch
    its compiled part cannot be loaded, which by itself torchvision tolerates; but since it gives
    ``torchvision::nms`` a shape function while it is being imported, and the operator was to be
    declared by the part that did not load, the import ends in ``RuntimeError: operator
    torchvision::nms does not exist``. Declaring the operator's schema (no implementation) lets the
    import go through. Data sets, transforms and models then work; the operators themselves
    (``torchvision.ops.nms`` and its like) still raise torchvision's own error about the mismatch.

    With matching builds this is ``import torchvision`` and nothing more. Call it before importing
    any library that imports torchvision when it finds it (torchmetrics does).

    Returns:
        The module ``torchvision``.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision failed to import for another reason; passed on as it is.

    Example:
        >>> import_torchvision().__name__
        'torchvision'
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ImportError(
            "`torchvision` is not installed; image data sets need it. Run "
            "`pip install torch-dni[vision]`."
        ) from error
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
    _forget_half_imported()
    _declare_operators()
    return importlib.import_module("torchvision")


def _forget_half_imported() -> None:
    """Drop the submodules a failed import left behind; they would be reused as they are."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    global _declarations
    # A fragment, because several libraries may then declare operators of the same namespace.
    _declarations = library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _declarations.define(schema)
