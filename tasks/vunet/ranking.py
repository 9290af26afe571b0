"""Which test figures come out best and worst: read from stored outputs, no network is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from .transfer import tiled

LOSS = "instances/dress/color_L1"
SHOWN = 8


def ranking(folder: Path, outputs: Any, data: Any, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rank the examples of an evaluation by their loss, and draw both ends.

    The loss is also computed again, from the images that were stored and the targets of the data
    set: ``again`` equals ``stored`` because row i is example i.

    Args:
        folder: Where the outputs are.
        outputs: What was stored: ``image``, and the losses of the single examples.
        data: The data set.
        config: Of the run.

    Returns:
        Quantiles of the loss, and the pictures ``best`` and ``worst``.
    """
    losses = numpy.asarray(outputs.column(LOSS))
    again = [
        abs(outputs[index]["image"] - data[index]["target"]).mean() for index in range(len(outputs))
    ]
    order = losses.argsort()
    found = {f"color_L1/{q}%": float(numpy.quantile(losses, q / 100)) for q in (5, 50, 95)}
    found |= {"color_L1/stored": losses.mean(), "color_L1/again": float(numpy.mean(again))}
    ends = {"best": order[:SHOWN], "worst": order[: -SHOWN - 1 : -1]}
    pictures = {name: _picture(numbers, outputs, data) for name, numbers in ends.items()}
    return {**found, **pictures}


def _picture(numbers: Any, outputs: Any, data: Any) -> torch.Tensor:
    """A column for each example: appearance, skeleton, what came of them, and the target."""
    columns = [data[int(i)] | {"image": outputs[int(i)]["image"]} for i in numbers]
    rows = [
        torch.stack([torch.as_tensor(column[key]) for column in columns])
        for key in ("appearance", "pose", "image", "target")
    ]
    picture: torch.Tensor = tiled(torch.stack(rows))
    return picture
