"""A critic before a normalisation leaves out what the normalisation does not let through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni import DNI, CriticDNI
from dni.synthesizers.means import unmoved

D, C = 6, 4
EXACT = 1e-12  # with BatchNorm's own eps a scaling of what it sees has a small effect

ABOVE: dict[str, tuple[tuple[int, ...], nn.Module]] = {
    "vectors": ((8, D), nn.Sequential(nn.Linear(D, C), nn.BatchNorm1d(C, eps=EXACT))),
    "maps": ((8, D, 3, 5), nn.Sequential(nn.Conv2d(D, C, 1), nn.BatchNorm2d(C, eps=EXACT))),
}
every_layout = pytest.mark.parametrize("layout", ABOVE)


def activation(layout: str) -> Tensor:
    return torch.randn(ABOVE[layout][0]).double().add(1)


def critic(layout: str, *, before_norm: bool, seed: int = 0) -> CriticDNI:
    """The same weights with and without the option."""
    torch.manual_seed(seed)
    maps = layout == "maps"
    made = CriticDNI(D, 7, D, C, maps=maps, pool_size=2, before_norm=before_norm).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def moves(layout: str, input: Tensor) -> list[Tensor]:
    """What does not matter to the network above: a shift of each feature, a scaling."""
    shifts = []
    for feature in range(D):
        shift = torch.zeros_like(input)
        shift[:, feature] = 1
        shifts.append(shift)
    return [*shifts, input]


@every_layout
def test_a_true_gradient_through_a_normalisation_has_none_of_it(layout: str) -> None:
    above = ABOVE[layout][1].double()
    input = activation(layout).requires_grad_()
    (true,) = torch.autograd.grad(above(input).relu().square().sum(), input)
    assert true.abs().max() > 1e-3
    torch.testing.assert_close(unmoved(true, input.detach()), true)


@every_layout
def test_a_synthetic_gradient_is_orthogonal_to_what_does_not_matter(layout: str) -> None:
    input, target = activation(layout), F.one_hot(torch.arange(8) % C).double()
    plain = critic(layout, before_norm=False)(input, None, target)[0]
    found = critic(layout, before_norm=True)(input, None, target)[0]
    for move in moves(layout, input):
        assert (plain * move).sum().abs() > 1e-4
        torch.testing.assert_close((found * move).sum(), torch.zeros(()).double())
    # Nothing else is taken: the difference is made of the moves alone.
    basis = torch.stack([move.flatten() for move in moves(layout, input)], 1)
    taken = (plain - found).flatten()
    fitted = basis @ torch.linalg.lstsq(basis, taken.unsqueeze(1)).solution
    torch.testing.assert_close(fitted.squeeze(1), taken)


@every_layout
def test_the_weights_learn_through_it(layout: str) -> None:
    made = critic(layout, before_norm=True)
    input, target = activation(layout), F.one_hot(torch.arange(8) % C).double()
    names = [name for name, _ in made.named_parameters()]

    def gradient_with(*weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        found: tuple[Tensor, object] = torch.func.functional_call(
            made, given, (input, None, target)
        )
        return found[0]

    weights = tuple(p.detach().clone().requires_grad_() for p in made.parameters())
    assert torch.autograd.gradcheck(gradient_with, weights)


def test_half_precision_neither_overflows_nor_vanishes() -> None:
    input = torch.randn(64, D, 20, 20).add(30)
    gradient = 1e-5 * torch.randn_like(input)
    found = unmoved(gradient.bfloat16(), input.bfloat16())
    assert found.dtype == torch.bfloat16
    assert F.cosine_similarity(found.float().flatten(), gradient.flatten(), dim=0) > 0.99


@every_layout
@pytest.mark.parametrize("unlock", ["none", "update"])
def test_what_a_wrapped_network_propagates_is_so_too(layout: str, unlock: str) -> None:
    torch.manual_seed(0)
    below: nn.Module = nn.Linear(D, D) if layout == "vectors" else nn.Conv2d(D, D, 1)
    positions = activation(layout)[0, 0].numel()
    norm = ABOVE[layout][1].float()
    above = nn.Sequential(norm, nn.ReLU(), nn.Flatten(), nn.Linear(C * positions, C))
    net = DNI(
        nn.Sequential(below, above),
        dni_network="critic",
        dni_params={"before_norm": True},
        context_size=C,
        λ=0.0,
        sites=["0"],
        unlock=unlock,
        update="manual",
    )
    input, labels = activation(layout).float(), torch.arange(8) % (C - 1)
    for update in range(3):
        if update:
            net.step()
        net.zero_grad()
        F.cross_entropy(net(input, context=labels), labels).backward()
    weight, bias = (dict(below.named_parameters())[name] for name in ("weight", "bias"))
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() > 1e-5
    # A bias shifts a feature; weight and bias together scale the activation.
    assert bias.grad.abs().max() < 1e-6
    assert (weight.grad * weight).sum().abs() < 1e-6
