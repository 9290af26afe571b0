"""Pictures of tensors: exact bytes, declared layout and range, nothing guessed."""

from __future__ import annotations

import math

import pytest
import torch

from dni.errors import ConfigError
from dni.trainer.callbacks.images import tile, to_bytes


def test_the_range_is_the_declared_one_and_the_rest_is_clipped() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, math.nan, math.inf, -math.inf])
    found = to_bytes(values.reshape(1, 1, 1, 8), name="x", low=-1.0, high=1.0)
    assert found.flatten().tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


def test_bytes_stay_bytes_in_their_range() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(values, name="x", low=0, high=255), values)


@pytest.mark.parametrize(
    ("layout", "shape"), [("CHW", (2, 3, 4, 5)), ("HWC", (2, 4, 5, 3)), ("HW", (2, 4, 5))]
)
def test_the_layout_is_the_declared_one(layout: str, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    found = to_bytes(images, name="x", layout=layout)
    if layout == "HWC":
        images = images.permute(0, 3, 1, 2)
    expected = (images.reshape(found.shape) * 255).round().to(torch.uint8)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 4, 5, 3), {}, "has 4 channels in layout 'CHW'"),
        (torch.zeros(2, 10), {}, "needs 4 axes"),
        (torch.zeros(2, 1, 3, 3), {"layout": "WHC"}, "must be one of"),
        (torch.zeros(2, 1, 3, 3), {"low": 1.0, "high": 1.0}, "which is empty"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(images, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message) as error:
        to_bytes(images, name="vector", **options)
    assert "'vector'" in str(error.value)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10])
@pytest.mark.parametrize("columns", [None, 1, 4, 99])
def test_a_tiling_holds_every_image_in_order(count: int, columns: int | None) -> None:
    images = torch.randint(65, 256, (count, 3, 4, 5), dtype=torch.uint8)
    whole = tile(images, columns=columns, gap=2)
    across = min(columns or math.ceil(math.sqrt(count)), count)
    for index in range(count):
        top, left = index // across * 6, index % across * 7
        assert torch.equal(whole[:, top : top + 4, left : left + 5], images[index])
    assert int((whole != 64).sum()) == images.numel()
