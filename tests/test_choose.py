"""Which synthesizer a site gets, and what is known of its output before any forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    DNI,
    RNNDNI,
    Conv2dDNI,
    DNINetwork,
    LinearBatchNormDNI,
    LinearDNI,
    LinearSigmoidDNI,
)
from dni.synthesizers.choose import SYNTHESIZERS, Layout, layout_from, layout_of, resolve


class MyLinear(nn.Linear):
    """A subclass is served like its base."""


MODULES: dict[str, tuple[nn.Module, tuple[int, ...], type[DNINetwork]]] = {
    "linear": (nn.Linear(6, 5), (4, 6), LinearDNI),
    "linear-sequence": (nn.Linear(6, 5), (4, 3, 6), LinearDNI),
    "subclass": (MyLinear(6, 5), (4, 6), LinearDNI),
    "layer-norm": (nn.LayerNorm(6), (4, 6), LinearDNI),
    "batch-norm-1d": (nn.BatchNorm1d(6), (4, 6), LinearDNI),
    "batch-norm-1d-channels": (nn.BatchNorm1d(6), (4, 6, 3), LinearDNI),
    "conv1d": (nn.Conv1d(2, 5, 3), (4, 2, 8), LinearDNI),
    "conv2d": (nn.Conv2d(2, 5, 3), (4, 2, 8, 8), Conv2dDNI),
    "transposed": (nn.ConvTranspose2d(2, 5, 3), (4, 2, 4, 4), Conv2dDNI),
    "conv3d": (nn.Conv3d(2, 5, 3), (2, 2, 4, 4, 4), LinearDNI),
    "batch-norm-2d": (nn.BatchNorm2d(2), (4, 2, 4, 4), Conv2dDNI),
    "group-norm": (nn.GroupNorm(2, 4), (4, 4, 4, 4), Conv2dDNI),
    "lstm": (nn.LSTM(6, 5), (3, 4, 6), RNNDNI),
    "gru": (nn.GRU(6, 5, batch_first=True, bidirectional=True), (4, 3, 6), RNNDNI),
    "projected": (nn.LSTM(6, 5, proj_size=3), (3, 4, 6), RNNDNI),
    "cell": (nn.GRUCell(6, 5), (4, 6), LinearDNI),
    "block": (
        nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU()),
        (4, 2, 8, 8),
        Conv2dDNI,
    ),
    "block-unpooled": (
        nn.Sequential(nn.Conv2d(2, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (4, 2, 8, 8),
        LinearDNI,
    ),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("module", "shape", "expected"), [pytest.param(*row, id=name) for name, row in MODULES.items()]
)
def test_the_synthesizer_suits_the_module_and_serves_its_output(
    module: nn.Module, shape: tuple[int, ...], expected: type[DNINetwork]
) -> None:
    net = DNI(module, recursive=False, λ=0.0, scale_targets=False, update="manual")
    output = net(torch.randn(shape))
    output = output[0] if isinstance(output, tuple) else output
    output.square().sum().backward()
    interface = net.interfaces[""]
    assert type(interface.synthesizer) is expected
    net.step()
    found = net.statistics()[""]
    assert found["true_norm"] == pytest.approx(2 * output.norm().item(), rel=1e-4)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("module", "shape"), [pytest.param(*row[:2], id=name) for name, row in MODULES.items()]
)
def test_what_a_module_tells_of_its_output_is_true(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    told = layout_of(module)
    output = module(torch.randn(shape))
    output = output[0] if isinstance(output, tuple) else output
    if told is None:
        return
    assert output.shape[told.axis] == told.features
    assert told.maps == (output.dim() == 4)
    assert layout_from(module, output) == told


def test_only_the_output_tells_what_an_unknown_module_returns() -> None:
    class Unknown(nn.Module):
        pass

    assert layout_of(Unknown()) is None
    assert layout_from(Unknown(), torch.zeros(2, 3, 4, 5)) == Layout(features=3, axis=1, maps=True)
    assert layout_from(Unknown(), torch.zeros(2, 3, 4)) == Layout(features=4)
    assert layout_from(Unknown(), torch.zeros(2, 7)) == Layout(features=7)


def test_every_synthesizer_of_the_package_has_a_name() -> None:
    assert set(SYNTHESIZERS.values()) >= {
        LinearDNI,
        LinearSigmoidDNI,
        LinearBatchNormDNI,
        RNNDNI,
        Conv2dDNI,
    }
    for name, synthesizer in SYNTHESIZERS.items():
        assert resolve(name, "0", nn.Identity()) is synthesizer


MAPPING: dict[Any, Any] = {
    nn.Module: "linear_batchnorm",
    nn.Linear: "linear_sigmoid",
    MyLinear: LinearDNI,
    "2": RNNDNI,
}


@pytest.mark.parametrize(
    ("site", "module", "expected"),
    [
        ("0", nn.Linear(2, 2), LinearSigmoidDNI),
        ("0", MyLinear(2, 2), LinearDNI),
        ("0", nn.LayerNorm(2), LinearBatchNormDNI),
        ("2", nn.Linear(2, 2), RNNDNI),
    ],
    ids=["type", "exact-type", "base", "site"],
)
def test_a_mapping_goes_from_site_to_exact_type_to_base(
    site: str, module: nn.Module, expected: type[DNINetwork]
) -> None:
    assert resolve(MAPPING, site, module) is expected


def test_a_site_that_a_mapping_leaves_out_is_chosen_for() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    net = DNI(network, {nn.LayerNorm: "linear_sigmoid"})
    assert [type(i.synthesizer) for i in net.interfaces.values()] == [LinearDNI, LinearSigmoidDNI]


def test_a_recurrent_synthesizer_takes_the_layout_of_its_site() -> None:
    for batch_first in (True, False):
        net = DNI(nn.LSTM(4, 4, batch_first=batch_first))
        assert net.interfaces[""].synthesizer.layers.batch_first is batch_first


def test_a_synthesizer_need_not_inherit_from_the_base_class() -> None:
    class Plain(nn.Module):
        def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
            super().__init__()
            self.layer = nn.Linear(input_size, output_size)

        def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
            return self.layer(input), hidden

    net = DNI(nn.Linear(4, 4), Plain)
    for _ in range(3):
        net(torch.randn(2, 4)).square().sum().backward()
    assert net.statistics()[""]["synthetic_norm"] > 0
