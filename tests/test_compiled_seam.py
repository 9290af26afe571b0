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
from dni.states import asinh

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
    """Run exported programs by torch, which saves a compiler's time, and check what they get."""
    counts = Counts()

    def built(
        module: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any, options: Mapping[str, Any]
    ) -> Any:
        counts.built += 1
        with torch.no_grad():
            run = torch.export.export(module, args, dynamic_shapes=dynamic_shapes).module()
        leaves, shape = tree_flatten(args)
        known = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def call(tensors: list[Tensor]) -> list[Tensor]:
            counts.called += 1
            for tensor, like in zip(tensors, known, strict=True):  # compiled code would not
                assert (tensor.dtype, tensor.device) == (like.dtype, like.device)
                assert tensor.is_contiguous()
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


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_not_compiled(copied: Any, counts: Counts) -> None:
    net, _ = pair(nn.LSTM(INPUTS, UNITS))
    train(net, windows(3))
    twin, called, inputs = copied(net), counts.called, windows(3)
    train(twin, inputs)
    assert counts.called == called
    train(net, inputs)
    assert_alike(net, twin)


class Turning(nn.Module):
    """Returns its state in another layout than it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(INPUTS, 6)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[1], 6) if state is None else state.movedim(1, 0).flatten(1)
        for step in x:
            h = self.cell(step, h)
        return h, h[None]


def test_a_state_in_another_layout_is_learned_from_as_usual(counts: Counts) -> None:
    net, twin = pair(Turning(), batch_dim=1)
    for each in (net, twin):
        torch.manual_seed(0)
        state = None
        for x in windows(5):
            state = train(each, [x], state)
            state = state.view(BATCH, 2, 3).movedim(1, 0).contiguous()  # [2, B, 3] of [1, B, 6]
    assert counts.called == 5  # questions, and no lesson
    assert_alike(net, twin)


class Leaky(nn.Module):
    """Its state keeps its type under autocast, where a synthesizer's prediction does not."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps = nn.Parameter(torch.full((INPUTS,), 0.5))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[1:]) if state is None else state
        for step in x:
            h = torch.tanh(self.keeps * h + step)
        return h, h


@pytest.mark.parametrize("compiles", [False, True])
def test_a_window_under_autocast_may_be_followed_by_one_without(
    compiles: bool, counts: Counts
) -> None:
    net, state = TemporalDNI(Leaky(), scale=0.9), None
    if compiles:
        net.compile()
    for number, x in enumerate(windows(6).float()):
        with torch.autocast("cpu", torch.bfloat16, enabled=number == 3):
            output, state = net(x, state)
        with torch.autocast("cpu", torch.bfloat16, enabled=number == 5):
            output.square().mean().backward()
    assert net.updates == 6
    assert (counts.called > 0) == compiles


def test_a_bias_may_go_after_it_was_compiled(counts: Counts) -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS))
    inputs = windows(6)
    for each in (net, twin):
        state = train(each, inputs[:3])
        each.interfaces["state"].synthesizer.final.bias = None  # type: ignore[union-attr, assignment]
        del each.synthesizer_optimizer.param_groups[0]["params"][1]  # type: ignore[union-attr]
        train(each, inputs[3:], state)
    assert counts.built == 4
    assert_alike(net, twin)


def test_what_compiled_code_is_given_is_on_the_cpu(counts: Counts) -> None:
    net, _ = pair(nn.LSTM(INPUTS, UNITS))
    inputs = windows(3)
    state = train(net, inputs[:2])
    net.scale, called = 0.7, counts.called
    with torch.device("meta"):
        net(inputs[2], state)
    assert counts.called == called + 1


def test_the_asinh_of_compiled_code_is_asinh() -> None:
    class Asinh(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return asinh(x)

    x = torch.cat([torch.logspace(-30, 18, 200), -torch.logspace(-3, 3, 50), torch.zeros(1)])
    run = torch.export.export(Asinh(), (x,)).module()
    torch.testing.assert_close(run(x), x.double().asinh().float(), rtol=1e-6, atol=0.0)
    beyond = torch.full_like(x, 1e30)
    assert run(beyond).isfinite().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiler_makes_the_same_of_it() -> None:
    net, twin = pair(nn.LSTM(INPUTS, UNITS), context_size=2)
    net.float(), twin.float()
    for batch in (BATCH, 3, 6):
        inputs = windows(5, batch).float()
        train(net, inputs)
        train(twin, inputs)
    assert net._seam.compiled is not None
    assert len(net._seam.compiled._compiled) == 2
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_compiled_is_explained() -> None:
    with pytest.raises(ConfigError, match="one linear map, and `LinearDNI` is not"):
        TemporalDNI(nn.GRU(INPUTS, UNITS), dni_params={"num_layers": 1}).compile()
    with pytest.raises(ConfigError, match="one linear map, and `LeastSquaresDNI` is not"):
        TemporalDNI(nn.GRU(INPUTS, UNITS), "least_squares").compile()
    net = TemporalDNI(nn.GRU(INPUTS, UNITS))
    with pytest.raises(ConfigError, match="no option 'max_autotun'. Did you mean 'max_autotune'"):
        net.compile(options={"max_autotun": True})
    with pytest.raises(ConfigError, match="`options` is 3; names of options of the compiler"):
        net.compile(options=3)  # type: ignore[arg-type]
    without = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        net.compile()
    assert net._seam.compiled is None
    with pytest.warns(DNIWarning, match="on meta windows run as they are"):
        TemporalDNI(nn.GRU(INPUTS, UNITS, device="meta")).compile()


@pytest.mark.parametrize(
    ("owner", "name"), [(torch._inductor, "aoti_compile_and_package"), (torch.export, "export")]
)
def test_a_compiler_that_fails_is_explained_and_training_goes_on(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, twin = pair(nn.GRU(INPUTS, UNITS))

    def fail(*args: Any, **kwargs: Any) -> str:
        raise RuntimeError("C++ compile error\nand much more")

    monkeypatch.setattr(owner, name, fail)
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
