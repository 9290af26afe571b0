"""What goes wrong in a forward pass is named with its site, and the next call works."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checks import INPUT, LABELS, assert_trains, mlp
from dni import DNI, ContextError, DNIError, DNINetwork, ShapeError, SiteError

# -- outputs of a site ---------------------------------------------------------------------------


class Choice(nn.Module):
    """Returns the index of the largest logit while ``is_hard``."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(4, 3)
        self.is_hard = True

    def forward(self, input: Tensor) -> Tensor:
        logits = self.logits(input)
        return logits.argmax(1) if self.is_hard else logits


def test_an_integer_output_is_refused_with_the_site_and_the_next_call_works() -> None:
    network = Choice()
    net = DNI(network, recursive=False)
    with pytest.raises(
        SiteError, match=r"Choice.*the network itself.*int64.*floating-point.*`sites=`"
    ):
        net(INPUT)
    network.is_hard = False
    assert_trains(net)


def test_an_output_without_any_tensor_is_refused() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(1))

        def forward(self, input: Tensor) -> dict[str, Any]:
            return {"words": "none", "count": (self.unused * 1).long()}

    with pytest.raises(SiteError, match=r"Words.*the network itself.*dict"):
        DNI(Words(), recursive=False)(INPUT)


def test_an_output_without_axes_is_refused() -> None:
    class Total(Choice):
        def forward(self, input: Tensor) -> Tensor:
            return self.logits(input).sum() if self.is_hard else self.logits(input)

    net = DNI(network := Total(), recursive=False)
    with pytest.raises(DNIError, match=r"the network itself.*(axis|axes|feature).*"):
        net(INPUT)
    network.is_hard = False
    assert_trains(net)


def test_an_empty_batch_is_refused_with_the_shape_and_the_next_call_works() -> None:
    network = mlp()
    twin = DNI(copy.deepcopy(network))
    net = DNI(network)
    with pytest.raises(ShapeError, match=r"'0'.*\(0, 8\).*at least one sample"):
        net(INPUT[:0])
    assert_trains(net, twin=twin)


def test_an_empty_batch_is_the_networks_own_business_in_evaluation() -> None:
    net = DNI(mlp()).eval()
    assert net(INPUT[:0]).shape == (0, 3)


# -- synthesizers that misbehave -----------------------------------------------------------------


class Moody(DNINetwork):
    """Does what ``mood`` says, or answers as it should."""

    mood: Any = None

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.map = nn.Linear(input_size, output_size)

    def forward(self, input: Tensor, hidden: Any) -> Any:
        gradient = self.map(input)
        return (gradient, hidden) if Moody.mood is None else Moody.mood(gradient)


@pytest.fixture
def moody() -> Iterator[type[Moody]]:
    yield Moody
    Moody.mood = None


def raising(error: BaseException) -> Callable[[Tensor], Any]:
    def raise_it(gradient: Tensor) -> Any:
        raise error

    return raise_it


MOODS = [
    ("narrow", ShapeError, r"\(5, 7\).*\(5, 8\)", lambda g: (g[:, 1:], None)),
    ("flat", ShapeError, r"\(40,\).*\(5, 8\)", lambda g: (g.flatten(), None)),
    ("transposed", ShapeError, r"\(8, 5\).*\(5, 8\)", lambda g: (g.t(), None)),
    ("one-row", ShapeError, r"\(1, 8\).*\(5, 8\)", lambda g: (g[:1], None)),
    ("no-tensor", ShapeError, "list.*tensor", lambda g: (g.tolist(), None)),
    ("none", DNIError, "", lambda g: None),
    ("no-pair", DNIError, "pair|shape", lambda g: g),
    ("three", DNIError, "pair", lambda g: (g, None, None)),
    *[
        (type(e).__name__, SiteError, "burnt toast", raising(e))
        for e in (
            RuntimeError("burnt toast"),
            ValueError("burnt toast"),
            TypeError("burnt toast"),
            IndexError("burnt toast"),
            AttributeError("burnt toast"),
            KeyError("burnt toast"),
            ZeroDivisionError("burnt toast"),
            NotImplementedError("burnt toast"),
        )
    ],
]


@pytest.mark.parametrize(
    ("error", "pattern", "mood"), [pytest.param(*row[1:], id=row[0]) for row in MOODS]
)
def test_a_synthesizer_that_misbehaves_is_named_with_its_site(
    moody: type[Moody], error: type[DNIError], pattern: str, mood: Any
) -> None:
    network = mlp()
    torch.manual_seed(3)
    twin = DNI(copy.deepcopy(network), moody)
    torch.manual_seed(3)
    net = DNI(network, moody)
    moody.mood = staticmethod(mood)
    with pytest.raises(error, match=f"(?s)Moody.*'0'.*{pattern}") as info:
        net(INPUT)
    moody.mood = None
    if error is SiteError:
        assert info.value.__cause__ is not None
    del info
    assert_trains(net, twin=twin)


def test_an_interrupt_in_a_synthesizer_is_not_turned_into_an_error(moody: type[Moody]) -> None:
    net = DNI(mlp(), moody)
    moody.mood = staticmethod(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        net(INPUT)
    moody.mood = None
    assert_trains(net)


def test_a_synthesizer_without_forward_says_what_to_define() -> None:
    with pytest.raises(SiteError, match=r"`DNINetwork`.*'0'.*forward\(self, input, hidden\)"):
        DNI(mlp(), DNINetwork)(INPUT)


# -- context -------------------------------------------------------------------------------------

CONTEXTS = [
    ("missing", r"'0'.*`context_size=3`.*context=labels", None),
    ("short", r"\(4,\).*'0'.*\(5, 8\)", LABELS[:4]),
    ("long", r"\(6,\).*'0'.*\(5, 8\)", torch.zeros(6).long()),
    ("transposed", "context", torch.zeros(3, 5)),
    ("too-large", "0 to 3.*0 to 2", torch.tensor([0, 1, 2, 3, 0])),
    ("negative", "-1 to 2.*0 to 2", torch.tensor([0, 1, 2, -1, 0])),
    ("features", r"\(5, 4\).*3", torch.zeros(5, 4)),
    ("no-axis", r"shape \(5,\)", torch.zeros(5)),
    ("list", "list.*tensor", [0, 1, 2, 1, 0]),
]


@pytest.mark.parametrize(
    ("pattern", "given"), [pytest.param(*row[1:], id=row[0]) for row in CONTEXTS]
)
def test_a_context_that_does_not_fit_is_refused_and_the_next_call_works(
    pattern: str, given: Any
) -> None:
    network = mlp()
    twin = DNI(copy.deepcopy(network), context_size=3)
    net = DNI(network, context_size=3)
    arguments = {} if given is None else {"context": given}
    with pytest.raises(ContextError, match=f"(?s){pattern}"):
        net(INPUT, **arguments)
    with pytest.raises(ContextError, match="no context"):
        net(INPUT)  # what was refused is not kept
    assert_trains(net, twin=twin, context=LABELS)


def test_a_context_for_a_wrapper_without_one_is_refused() -> None:
    net = DNI(mlp())
    with pytest.raises(ContextError, match=r"`context_size="):
        net(INPUT, context=LABELS)
    with pytest.raises(ContextError, match=r"`context_size="), net.context(LABELS):
        pass
    assert_trains(net)


def test_labels_that_match_the_height_of_a_map_and_not_its_batch_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 3))
    for dni_network in (None, "linear"):
        net = DNI(copy.deepcopy(network), dni_network, context_size=3, sites=["0"])
        with pytest.raises(ContextError, match=r"'0'.*one context per sample"):
            net(torch.randn(5, 1, 8, 8), context=torch.zeros(8).long())


# -- an exception in the middle of a forward -----------------------------------------------------


class Fuse(nn.Module):
    """Raises while it is lit."""

    is_lit = False

    def forward(self, input: Tensor) -> Tensor:
        if self.is_lit:
            raise ArithmeticError("blown")
        return input


@pytest.mark.parametrize("is_first", [True, False], ids=["first-pass", "later-pass"])
def test_an_exception_in_the_middle_of_a_forward_passes_through_and_the_next_call_works(
    is_first: bool,
) -> None:
    fuse = Fuse()
    network = nn.Sequential(nn.Linear(4, 8), fuse, nn.Linear(8, 3))
    twin = DNI(copy.deepcopy(network), context_size=3)
    net = DNI(network, context_size=3)
    if not is_first:
        assert_trains(net, twin=twin, context=LABELS)
    fuse.is_lit = True
    with pytest.raises(ArithmeticError, match="blown") as kept:  # its traceback keeps the graph
        net(INPUT, context=LABELS)
    fuse.is_lit = False
    with pytest.raises(ContextError, match="no context"):
        net(INPUT)
    assert_trains(net, twin=twin, context=LABELS)
    assert kept.value is not None
