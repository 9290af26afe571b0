"""What an evaluation found: numbers and images, from evaluators and functions on stored outputs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .callbacks.images import save_png
from .evaluation import StoredOutputs
from .registry import import_path

if TYPE_CHECKING:
    from .trainer import Trainer

RESULTS = "results"
"""Where in the folder of an evaluation the findings of functions are: JSON, and images."""


@dataclass
class Findings:
    """What an evaluator, or a function on stored outputs, found.

    Attributes:
        scalars: Numbers.
        images: Bytes. Shape ``[1, H, W]`` or ``[3, H, W]``.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Any, *, by: str) -> Findings:
        """Sort what was returned; ``{"scalars": {...}, "images": {...}}`` is taken apart.

        Args:
            result: A mapping of names to numbers and images, or to such mappings; or ``None``.
            by: Who returned it, for the message.

        Raises:
            ConfigError: Something is neither.

        Example:
            >>> Findings.of({"scalars": {"error": 0.5}, "worst": {"loss": 3}}, by="x").scalars
            {'error': 0.5, 'worst/loss': 3.0}
        """
        found = cls()
        if result is None:
            return found
        if not isinstance(result, Mapping):
            raise ConfigError(
                f"The {by} returned a {type(result).__name__}; a mapping of names to numbers or "
                "images is needed, such as {'accuracy': 0.9}."
            )
        for kind in ("scalars", "images"):
            if isinstance(result.get(kind), Mapping):
                result = {**result[kind], **{k: v for k, v in result.items() if k != kind}}
        for key, value in _leaves(result):
            if isinstance(value, int | float | np.number | np.bool_):
                found.scalars[key] = float(value)
                continue
            value = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
            if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() > 1:
                found.images[key] = image = value[None] if value.dim() == 2 else value
                if image.dim() != 3 or image.shape[0] not in (1, 3):
                    raise ConfigError(
                        f"The {by} returned the image {key!r} of shape {tuple(value.shape)}; "
                        "[H, W], [1, H, W] or [3, H, W] is needed."
                    )
            elif isinstance(value, Tensor) and value.numel() == 1:
                found.scalars[key] = float(value)
            else:
                shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
                raise ConfigError(
                    f"The {by} returned {key!r} as a {type(value).__name__}{shape}; numbers, and "
                    "images of bytes (uint8), are what can be reported."
                )
        return found

    def report(self, trainer: Trainer, name: str) -> None:
        """Report everything under ``<name>/``; images are also written as PNG to the run."""
        for key, number in self.scalars.items():
            trainer.record.scalar(f"{name}/{key}", number)
        for key, image in self.images.items():
            trainer.record.image(f"{name}/{key}", image)
            if trainer.run is not None:
                file = f"{trainer.counters.step:07d}.png"
                save_png(Path(trainer.run.path) / "images" / name / key / file, image)


def _leaves(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in result.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def run_function(
    name: str, function: Any, outputs: StoredOutputs, data: Any, config: Mapping[str, Any]
) -> Findings:
    """Call a function on stored outputs, and write what it found beside them.

    The numbers go into ``results/<name>.json``, images into ``results/<name>/<key>.png``. A
    function with parameters ``data_in`` and ``data_out`` gets data and outputs by these names.

    Args:
        name: What the findings are called.
        function: ``function(folder, outputs, data, config)``, or its import path.
        outputs: What was stored.
        data: The data set that it is about.
        config: The config of the run, as plain containers.

    Raises:
        ConfigError: There is no such function, or it returned something that cannot be reported.
    """
    call = import_path(function, what="function") if isinstance(function, str) else function
    if not callable(call):
        raise ConfigError(f"{function!r} is no function; it is a {type(call).__name__}.")
    if {"data_in", "data_out"} <= set(inspect.signature(call).parameters):
        result = call(outputs.folder, data_in=data, data_out=outputs, config=config)
    else:
        result = call(outputs.folder, outputs, data, config)
    found = Findings.of(result, by=f"function {name!r}")
    folder = outputs.folder / RESULTS
    folder.mkdir(exist_ok=True)
    text = json.dumps(found.scalars, indent=2)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for key, image in found.images.items():
        save_png(folder / name / f"{key}.png", image)
    return found
