"""Sites that are never called are named once; their weights learn all the same."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from dni import DNI, DNIWarning

from .networks import assert_is_backprop, batches, fit, mlp


class Attention(nn.Module):
    """`nn.MultiheadAttention` calls its `out_proj` as a function, so no hook runs there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.head(self.attention(h, h, h, need_weights=False)[0])


X = torch.linspace(-1, 1, 36).view(2, 3, 6)


def test_one_warning_names_the_output_layer_of_attention() -> None:
    net = DNI(Attention())
    with pytest.warns(DNIWarning, match=r"'attention\.out_proj'") as warned:
        net(X).square().sum().backward()
    net(X).square().sum().backward()  # a second warning would be an error
    assert len(warned) == 1
    text = str(warned[0].message)
    assert "'head'" not in text
    assert "'embed'" not in text


def test_the_warning_points_at_the_line_that_called_the_wrapper() -> None:
    net = DNI(Attention())
    with pytest.warns(DNIWarning) as warned:
        net(X)
    assert warned[0].filename == __file__


@pytest.mark.filterwarnings("ignore::dni.DNIWarning")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_weights_of_attention_learn(share: float) -> None:
    net = DNI(Attention(), lambda_=share)
    before = {name: p.detach().clone() for name, p in net.network.named_parameters()}
    for _ in range(12):  # at λ = 0 a true gradient comes down by one site every two steps
        net(X).square().sum().backward()
    assert net.updates == 12
    for name, parameter in net.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.filterwarnings("ignore::dni.DNIWarning")
def test_attention_alone_learns_though_it_has_no_interface() -> None:
    def run(net: nn.Module) -> Tensor:
        h = X[..., :4]
        return net(h, h, h, need_weights=False)[0].square().sum()

    net = assert_is_backprop(nn.MultiheadAttention(4, 2, batch_first=True), run)
    assert list(net.statistics()) in ([], ["out_proj"])
    assert net.updates == 3


@pytest.mark.filterwarnings("ignore::dni.DNIWarning")
def test_attention_is_backprop_at_λ_one() -> None:
    assert_is_backprop(Attention(), lambda net: net(X).square().sum())


@pytest.mark.filterwarnings("ignore::dni.DNIWarning")
def test_parameters_of_modules_that_are_no_leaves_learn() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.factor = nn.Linear(6, 4), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.factor

    class Only(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.factor = nn.Linear(6, 4), nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    assert_is_backprop(Scaled(), lambda net: net(X).square().sum())
    assert_is_backprop(Only(), lambda net: net(X).square().sum())
    for make in (Scaled, Only):
        net = DNI(make(), lambda_=0.0)
        before = net.network.factor.detach().clone()
        net(X).square().sum().backward()
        assert not torch.equal(net.network.factor, before)


class Branches(nn.Module):
    """Calls one of two branches; the other stays silent until its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.is_right = nn.Linear(6, 3), nn.Linear(6, 3), False

    def forward(self, x: Tensor) -> Tensor:
        return self.right(x) if self.is_right else self.left(x)


def test_a_branch_that_is_called_later_has_its_interface_then() -> None:
    net = DNI(Branches())
    with pytest.warns(DNIWarning, match="'right'"):
        net(X).square().sum().backward()
    net.network.is_right = True
    before = net.network.right.weight.clone()
    net(X).square().sum().backward()
    assert not torch.equal(before, net.network.right.weight)
    assert net.statistics()["right"]["true_norm"] > 0
    assert net.updates == 2


def test_a_branch_without_site_is_updated_too() -> None:
    class Both(Branches):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.left(x), self.right(x)

    net = DNI(Both(), sites=["left"])
    before = {name: p.detach().clone() for name, p in net.network.named_parameters()}
    net(X)[1].square().sum().backward()
    assert torch.equal(net.network.left.weight, before["left.weight"])
    assert not torch.equal(net.network.right.weight, before["right.weight"])
    assert net.updates == 1


def test_no_warning_before_the_first_whole_training_pass() -> None:
    net = DNI(mlp())
    x, _ = batches(1)[0]
    with torch.no_grad():
        net(x)
    net.eval()(x)
    net.train()
    with pytest.raises(RuntimeError):
        net(x[:, :2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net, batches(1))
