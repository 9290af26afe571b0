"""A window's ends as compiled code: what they compute, and when they run as they are."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from dni import DNIWarning, TemporalDNI, compiled_seam
from dni.errors import ConfigError

INPUTS, UNITS, BATCH = 3, 5, 4

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "without bias": {"dni_params": {"bias": False}},
    "with a context": {"context_size": 2},
    "without units": {"scale_targets": False, "limit": None},
    "without compression": {"compress": False},
    "shortened": {"limit": 0.01},
    "every second": {"train_every": 2},
    "manual": {"update": "manual"},
}


class Counts:
    """How often programs were built and called."""

    def __init__(self) -> None:
        self.built = self.called = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Run exported programs by torch, with which a compiler's half minute is saved."""
    counts = Counts()

    def built(program: Any, options: Mapping[str, Any]) -> Any:
        counts.built += 1
        run = program.module()
        leaves, shape = tree_flatten(program.example_inputs[0])

        def call(tensors: list[Tensor]) -> list[Tensor]:
            counts.called += 1
            given = iter(tensors)
            filled = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            with torch.no_grad():
                return list(tree_flatten(run(*tree_unflatten(filled, shape)))[0])

        return call

    monkeypatch.setattr(compiled_seam, "built", built)
    return counts


def pair(network: nn.Module, **options: Any) -> tuple[TemporalDNI, TemporalDNI]:
    """A wrapper that is compiled, and one that is not."""
    net = TemporalDNI(network.double(), **{"scale": 0.9, "grad_lr": 0.05, **options})
    twin = copy.deepcopy(net)
    net.compile()
    return net, twin


def windows(count: int, batch: int = BATCH) -> Tensor:
    return torch.randn(count, 3, batch, INPUTS, dtype=torch.float64)


def train(net: TemporalDNI, inputs: Any, state: Any = None, *, done: Any = None) -> Any:
    """Train on windows; the state at the end."""
    optimizer = torch.optim.SGD(net.network.parameters(), lr=0.1)
    for x in inputs:
        labels = torch.arange(x.shape[-2]) % 2 if net.interfaces.context_size else None
        output, state = net(x, state, done=done, context=labels)
        optimizer.zero_grad()
        (output - 0.3).square().mean().backward()
        optimizer.step()
        if not net._updates.is_automatic:
            net.step()
    return state


def assert_alike(net: TemporalDNI, twin: TemporalDNI) -> None:
    expected = twin.state_dict()
    for key, value in net.state_dict().items():
        if isinstance(value, Tensor):
            exact = 1e-7 if value.dtype == torch.float64 else 1e-5  # ρ is in single precision
            torch.testing.assert_close(value, expected[key], rtol=exact, atol=exact)


@pytest.mark.parametrize("name", OPTIONS)
def test_compiled_ends_train_as_those_that_are_not(name: str, counts: Counts) -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS), **OPTIONS[name])
    inputs = windows(7)
    train(net, inputs)
    train(twin, inputs)
    assert counts.built == 2
    assert counts.called >= 7 + 3
    assert_alike(net, twin)


class Nested(nn.Module):
    """Its state is a nest of tensors with different numbers of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(INPUTS, UNITS)
        self.grid = nn.Linear(UNITS, 6)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if state is None:
            state = {"h": x.new_zeros(x.shape[1], UNITS), "m": [x.new_zeros(x.shape[1], 2, 3)]}
        h, m = state["h"], state["m"][0]
        for step in x:
            h = self.cell(step, h)
            m = m + self.grid(h).view_as(m)
        return torch.cat((h, m.flatten(1)), 1), {"h": h, "m": [m]}


NETWORKS: dict[str, Any] = {
    "GRU": lambda: nn.GRU(INPUTS, UNITS),
    "two layers": lambda: nn.LSTM(INPUTS, UNITS, num_layers=2),
    "a nest": Nested,
}


@pytest.mark.parametrize("batches", [(BATCH,), (BATCH, 6, 1, 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_state_and_any_batch_is_compiled_at_most_twice(
    name: str, batches: tuple[int, ...], counts: Counts
) -> None:
    net, twin = pair(NETWORKS[name]())
    for batch in batches:
        inputs = windows(5, batch)
        train(net, inputs)
        train(twin, inputs)
    assert counts.built == 2 * min(len(batches), 2)
    assert_alike(net, twin)


def test_windows_that_begin_an_episode_for_some_learn_as_usual(counts: Counts) -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS))
    inputs, done = windows(6), torch.tensor([False, True, False, False])
    train(net, inputs, done=done)
    train(twin, inputs, done=done)
    assert counts.called == 6  # questions, and no lesson
    assert_alike(net, twin)


def not_in_one_piece(net: TemporalDNI) -> None:
    final = net.interfaces["state"].synthesizer.final  # type: ignore[union-attr]
    final.weight = nn.Parameter(final.weight.detach().t().contiguous().t())  # type: ignore[union-attr]
    net.synthesizer_optimizer.param_groups[0]["params"][0] = final.weight  # type: ignore[union-attr]


UNFIT: dict[str, Any] = {
    "a weight in pieces": not_in_one_piece,
    "a listener": lambda net: net.interfaces["state"].synthesizer.register_forward_hook(
        lambda *args: None
    ),
    "scale 0": lambda net: setattr(net, "scale", 0.0),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_compiled_code_does_not_fit_runs_as_it_is(name: str, counts: Counts) -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS))
    for each in (net, twin):
        UNFIT[name](each)
    inputs = windows(5)
    train(net, inputs)
    train(twin, inputs)
    assert counts.built == counts.called == 0
    assert_alike(net, twin)


def test_the_auxiliary_task_runs_as_it_is(counts: Counts) -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS), auxiliary=0.5)
    inputs = windows(5)
    train(net, inputs)
    train(twin, inputs)
    assert counts.built == 0
    assert_alike(net, twin)


def test_a_prediction_that_is_not_finite_is_not_sent(counts: Counts) -> None:
    net, _ = pair(nn.GRU(INPUTS, UNITS))
    state = train(net, windows(3))
    with torch.no_grad():
        net.interfaces["state"].synthesizer.final.bias[:2] = torch.tensor([torch.nan, torch.inf])  # type: ignore[union-attr, index]
    net(windows(1)[0], state)
    (sent,) = net._seam.future.gradients or ()
    assert not sent[..., :2].any()
    assert sent[..., 2:].any()


def test_compiled_training_resumes_to_the_last_bit(counts: Counts) -> None:
    net, _ = pair(nn.LSTM(INPUTS, UNITS, num_layers=2))
    state, inputs = train(net, windows(4)), windows(4)
    file = io.BytesIO()
    torch.save({"net": net.training_state(), "state": state}, file)
    train(net, inputs, state)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, _ = pair(nn.LSTM(INPUTS, UNITS, num_layers=2))
    other.load_training_state(saved["net"])
    train(other, inputs, saved["state"])
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_copies_are_not_compiled(counts: Counts) -> None:
    net, _ = pair(nn.LSTM(INPUTS, UNITS))
    train(net, windows(3))
    built = counts.built
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        inputs = windows(3)
        train(net, inputs)
        train(twin, inputs)
        assert twin._seam.compiled is None
        net = copy.deepcopy(twin)
    assert counts.built == built


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiler_makes_the_same_of_it() -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS), context_size=2)
    for batch in (BATCH, 3, 6):
        inputs = windows(5, batch)
        train(net, inputs)
        train(twin, inputs)
    assert net._seam.compiled is not None
    assert len(net._seam.compiled._compiled) == 2
    assert_alike(net, twin)


def test_what_cannot_be_compiled_is_explained() -> None:
    with pytest.raises(ConfigError, match="one linear map, and `LinearDNI` is not"):
        TemporalDNI(nn.GRU(INPUTS, UNITS), dni_params={"num_layers": 1}).compile()
    with pytest.raises(ConfigError, match="one linear map, and `LeastSquaresDNI` is not"):
        TemporalDNI(nn.GRU(INPUTS, UNITS), "least_squares").compile()
    net = TemporalDNI(nn.GRU(INPUTS, UNITS))
    with pytest.raises(ConfigError, match="no option 'max_autotun'. Did you mean 'max_autotune'"):
        net.compile(options={"max_autotun": True})
    without = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        net.compile()
    assert net._seam.compiled is None
    with pytest.warns(DNIWarning, match="on meta windows run as they are"):
        TemporalDNI(nn.GRU(INPUTS, UNITS, device="meta")).compile()


def test_a_compiler_that_fails_is_explained_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, twin = pair(nn.GRU(INPUTS, UNITS))

    def fail(*args: Any, **kwargs: Any) -> str:
        raise RuntimeError("C++ compile error\nand much more")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    inputs = windows(3)
    with pytest.raises(ConfigError, match=r"could not compile a window's end: C\+\+ compile error"):
        train(net, inputs)
    net._seam.compiled = None
    train(net, inputs)
    train(twin, inputs)
    assert_alike(net, twin)


def test_nothing_is_compiled_where_the_environment_says_so() -> None:
    with torch._dynamo.config.patch(disable=True):
        net, _ = pair(nn.GRU(INPUTS, UNITS))
    assert net._seam.compiled is None
