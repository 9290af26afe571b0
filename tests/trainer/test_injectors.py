"""Every injector on small values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.trainer.injectors import make_injector

X = torch.arange(12.0).reshape(2, 3, 2)
IMAGE = torch.arange(24.0).reshape(2, 3, 2, 2)


@pytest.mark.parametrize(
    ("spec", "values", "expected"),
    [
        ({"type": "direct"}, (X,), X),
        ({"type": "constant", "value": 2}, (X,), torch.full_like(X, 2)),
        ({"type": "constant", "shape": [-1, 4]}, (X,), torch.zeros(2, 4)),
        ({"type": "concatenate"}, (X, X), torch.cat((X, X), 1)),
        ({"type": "concatenate", "dim": 2}, (X, X), torch.cat((X, X), 2)),
        ({"type": "reshape", "shape": [-1]}, (X,), X.view(2, 6)),
        ({"type": "flatten"}, (X,), X.view(2, 6)),
        ({"type": "squeeze", "dim": 1}, (X[:, :1],), X[:, 0]),
        ({"type": "unsqueeze", "dim": 1}, (X,), X[:, None]),
        ({"type": "permute", "dims": [0, 2, 1]}, (X,), X.mT),
        ({"type": "slice", "dim": 1, "start": 1}, (X,), X[:, 1:]),
        ({"type": "slice", "dim": 1, "start": 1, "stop": 2}, (X,), X[:, 1:2]),
        ({"type": "pad_to_multiple", "dim": 1, "of": 3}, (X,), X),
        (
            {"type": "pad_to_multiple", "dim": 1, "of": 2, "fill": 7},
            (X,),
            torch.cat((X, torch.full((2, 1, 2), 7.0)), 1),
        ),
        ({"type": "normalize", "mean": 1, "std": 2}, (X,), (X - 1) / 2),
        (
            {"type": "denormalize", "mean": [1, 2, 3], "std": 2},
            (X,),
            X * 2 + torch.tensor([1.0, 2, 3]).view(1, 3, 1),
        ),
        (
            {"type": "for_each", "injector": {"type": "flatten"}},
            (IMAGE,),
            IMAGE.flatten(2),
        ),
        (
            {"type": "augment", "transforms": [{"type": "RandomHorizontalFlip", "p": 1.0}]},
            (IMAGE,),
            IMAGE.flip(-1),
        ),
        ({"type": "torch.neg"}, (X,), -X),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_what_it_gives(spec: dict[str, Any], values: tuple[Tensor, ...], expected: Tensor) -> None:
    injector = make_injector(spec)
    injector.check(len(values), by="injector")
    torch.testing.assert_close(injector(*values), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["normal", "uniform"])
def test_noise_has_its_scale(mode: str) -> None:
    noise = make_injector({"type": "noise", "shape": [-1, 500], "mode": mode, "scale": 3})(X)
    assert noise.shape == (2, 500)
    deviation = 3.0 if mode == "normal" else 3 / 3**0.5
    assert noise.std().item() == pytest.approx(deviation, rel=0.1)
    assert mode == "normal" or noise.abs().max() <= 3


def test_added_noise_is_scaled_per_sample() -> None:
    value = torch.zeros(2, 1000)
    noisy = make_injector({"type": "add_noise"})(value, torch.tensor([0.0, 2.0]))
    assert noisy[0].abs().max() == 0
    assert noisy[1].std().item() == pytest.approx(2, rel=0.1)
    assert make_injector({"type": "add_noise", "scale": 0.0})(value).abs().max() == 0


def test_each_sample_may_be_augmented_by_itself() -> None:
    spec = {"type": "augment", "transforms": [{"type": "RandomHorizontalFlip"}], "each": True}
    image = torch.arange(4.0).expand(50, 1, 1, 4).clone().requires_grad_()
    found = make_injector(spec)(image)
    assert len(found.detach().flatten(1).unique(dim=0)) == 2
    found.sum().backward()
    assert image.grad is not None
    assert (image.grad == 1).all()


def test_a_network_is_called_with_arguments_by_method_and_without_grad() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def decode(self, x: Tensor, *, times: int) -> Tensor:
            return x * self.weight * times

    spec = {"type": "call", "network": "net", "method": "decode", "args": {"times": 3}}
    assert make_injector(spec)(Net(), X).requires_grad
    assert not make_injector({**spec, "grad": False})(Net(), X).requires_grad
    torch.testing.assert_close(make_injector(spec)(Net(), X).detach(), X * 3)
    each = make_injector({"type": "for_each", "injector": spec})
    torch.testing.assert_close(each(Net(), X).detach(), X * 3)
    with pytest.raises(ConfigError, match="'net' has no method 'encode'"):
        make_injector({**spec, "method": "encode"})(Net(), X)


def test_a_scalar_follows_its_schedule() -> None:
    injector = make_injector({"type": "scheduled_scalar", "schedule": {"ramp": [2, 0, 4, 1]}})
    assert [injector(step) for step in range(6)] == [0, 0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ({"type": "concatenat"}, 1, "no injector 'concatenat'.*'concatenate'"),
        ({"type": "noise", "mode": "cauchy"}, 1, "'normal' or 'uniform'"),
        ({"type": "direct"}, 2, "'i' reads 2 keys"),
        ({"type": "constant"}, 0, "'i' reads 0 keys.*'like'"),
        ({"type": "reshape"}, 1, "'shape'"),
        ({"type": "call"}, 1, "'network'"),
        ({"type": "torch.nn.Linear", "in_features": 1, "out_features": 1}, 1, "no `Injector`"),
    ],
)
def test_bad_injectors_are_explained(spec: dict[str, Any], count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_injector(spec).check(count, by="injector 'i'")
