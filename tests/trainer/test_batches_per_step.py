"""Updates by the mean gradient of several batches: the loop by hand, cuts, what counts steps."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import classify, network, tensors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from dni import DNI, TemporalDNI
from dni.errors import ConfigError
from dni.trainer import Callback, CancelStep, Source, Step, Trainer
from dni.trainer.callbacks import EMA, Metrics, StopOnNaN
from dni.trainer.callbacks.lr_finder import find_lr
from dni.trainer.strategies import make_strategy

PARTS = 3
ADAM = {"type": "adam", "lr": 0.01}
DNI_OPTIONS = {"dni_network": "critic", "sites": ["0", "1"], "context_size": 2}
TEMPORAL = {"scale": 1.0, "grad_lr": 0.01}
STRATEGIES: dict[str, dict[str, Any]] = {
    "backprop": ADAM,
    "dni": {"type": "dni", "lambda": 0.0, "optim": ADAM, "context": "label", **DNI_OPTIONS},
    "temporal": {"type": "temporal_dni", "network": "core", "optim": ADAM, **TEMPORAL},
}


class Windows(Source):
    """Windows of 3 steps of two sequences, five in an epoch, which is one episode."""

    def __init__(self) -> None:
        self.inputs = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
        super().__init__(self.inputs)

    def batches(
        self, epoch: int, *, start: int = 0, training: bool = False
    ) -> Iterator[dict[str, Any]]:
        for number in range(start, 5):
            inputs = self.inputs[number]
            yield {"x": inputs, "y": inputs.sum(2, True), "done": number == 4}


def make(name: str, *callbacks: Any, parts: int = PARTS, **options: Any) -> Trainer:
    """Seven epochs of five batches: eleven updates of three, and two batches left."""
    settings = {"max_epochs": 7, "log": {"every": 1}, "batches_per_step": parts} | options
    torch.manual_seed(0)
    if name != "temporal":
        net = network()
        data = {
            "train": Source(tensors(40, 2), batch_size=8, shuffle=False),
            "validation": Source(tensors(16, 3), batch_size=8),
        }
        steps = {"classify": classify(net, STRATEGIES[name])}
        return Trainer({"net": net}, steps, data, callbacks, **settings)
    networks = {"core": nn.LSTM(2, 5), "head": nn.Linear(5, 1)}
    step = Step(
        "fit",
        training=networks,
        strategy=make_strategy(STRATEGIES[name], networks, clip=0.5),
        injectors={
            "seen": {"type": "recurrent", "network": "core", "in": ["x", "done"]},
            "guess": {"type": "call", "network": "head", "in": "seen"},
        },
        losses={"l2": {"type": "torch.nn.functional.mse_loss", "input": "guess", "target": "y"}},
    )
    data = {"train": Windows(), "validation": Windows()}
    return Trainer(networks, {"fit": step}, data, callbacks, **settings)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p for network in trainer.networks.values() for p in network.parameters()]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def every_third(
    parameters: list[Tensor], clip: float | None, losses: Iterator[Tensor]
) -> list[Tensor]:
    """The loop that a user writes: the mean gradient of three losses makes an update."""
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for number, loss in enumerate(losses, 1):
        (loss / PARTS).backward()
        if number % PARTS == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad()
    return parameters


def test_backpropagation_is_the_loop_by_hand() -> None:
    def losses() -> Iterator[Tensor]:
        for _, batch in itertools.product(range(7), trainer.data["train"].batches(0)):
            yield cross_entropy(net(batch["image"]), batch["label"])

    trainer = make("backprop", validate_epochs=None)
    net = network()
    torch.manual_seed(0)  # of the dropout
    expected = every_third(list(net.parameters()), None, losses())
    trainer.fit()
    assert_same(weights(trainer), expected)
    assert (trainer.counters.step, trainer.counters.part) == (11, 2)


def test_synthesizers_learn_from_every_batch_and_networks_from_every_third() -> None:
    def losses() -> Iterator[Tensor]:
        for _, batch in itertools.product(range(7), trainer.data["train"].batches(0)):
            with wrapped.context(batch["label"]):
                output = wrapped(batch["image"])
            yield cross_entropy(output, batch["label"])
            wrapped.step(network=False)

    trainer = make("dni", validate_epochs=None)
    torch.manual_seed(0)
    net = network()
    wrapped = DNI(net, λ=0.0, update="manual", optim="sgd", **DNI_OPTIONS)
    torch.manual_seed(0)
    expected = every_third(list(net.parameters()), None, losses())
    trainer.fit()
    for ours, theirs in zip(weights(trainer), expected, strict=True):
        # By hand the synthesizers step after the network and not before.
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_windows_are_the_loop_by_hand() -> None:
    def losses() -> Iterator[Tensor]:
        for _ in range(7):
            state: Any = None
            for batch in Windows().batches(0):
                output, state = net(batch["x"], state)
                if batch["done"]:
                    net.end_episode()
                yield mse_loss(head(output), batch["y"])

    trainer = make("temporal")
    torch.manual_seed(0)
    core, head = nn.LSTM(2, 5), nn.Linear(5, 1)
    net = TemporalDNI(core, **TEMPORAL)  # steps its synthesizer when backward ends
    parameters = [*core.parameters(), *head.parameters()]
    # A clip for each network of the step.
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for number, loss in enumerate(losses(), 1):
        (loss / PARTS).backward()
        if number % PARTS == 0:
            for part in (core, head):
                nn.utils.clip_grad_norm_(part.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    trainer.fit()
    assert_same(weights(trainer), parameters)


def test_steps_that_train_the_same_network_keep_their_gradients_apart() -> None:
    sgd, trained = {"type": "sgd", "lr": 0.1}, network()
    trained[3].p = 0.0
    again = Step(
        "again",
        training=["net"],
        strategy=make_strategy(sgd, {"net": trained}),
        injectors={"second": {"type": "call", "network": "net", "in": "image"}},
        losses={"ce": {"type": "cross_entropy", "input": "second", "target": "label"}},
    )
    steps = {"classify": classify(trained, sgd), "again": again}
    data = {"train": Source(tensors(40, 2), batch_size=8, shuffle=False)}
    trainer = Trainer({"net": trained}, steps, data, max_steps=1, batches_per_step=PARTS)
    trainer.fit()
    net, batches = network(), list(trainer.data["train"].batches(0))
    net[3].p = 0.0
    parameters = list(net.parameters())
    totals = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    for number, batch in enumerate(batches[:PARTS]):
        for total in totals:
            loss = cross_entropy(net(batch["image"]), batch["label"]) / PARTS
            for sum_, grad in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                sum_ += grad
            if number == PARTS - 1:
                with torch.no_grad():
                    for parameter, sum_ in zip(parameters, total, strict=True):
                        parameter -= 0.1 * sum_
    for ours, theirs in zip(weights(trainer), parameters, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


class Cut(Callback):
    """Ctrl-C amid a batch of training."""

    def __init__(self, batch: int) -> None:
        self.left = batch

    def on_backward_end(self, trainer: Trainer, phase: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_that_is_cut_at_any_batch_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = make(name, Metrics({}), validate_steps=2)
    whole.fit()
    parts = set()
    for batch in range(1, 14, 2):
        cut = make(name, Metrics({}), Cut(batch), validate_steps=2)
        with pytest.raises(KeyboardInterrupt):
            cut.fit()
        parts.add(cut.counters.part)
        cut.save(tmp_path / "cut.pt")
        resumed = make(name, Metrics({}), validate_steps=2)
        resumed.load(tmp_path / "cut.pt")
        resumed.fit()
        assert_same(weights(resumed), weights(whole))
        assert resumed.record.latest == whole.record.latest
        assert resumed.counters == whole.counters
    assert parts == {0, 1, 2}


def test_everything_that_counts_steps_counts_updates() -> None:
    class Notes(Callback):
        def __init__(self) -> None:
            self.lines: list[tuple[str, int]] = []
            for event in ("log", "optimizer_end", "validate_begin", "checkpoint"):
                setattr(self, f"on_{event}", self._noting(event))

        def _noting(self, event: str) -> Callable[..., None]:
            return lambda trainer, phase: self.lines.append((event, trainer.counters.step))

    notes = Notes()
    rates = {"optimizer/classify/lr": {"ramp": [0, 0.0, 4, 4.0]}}
    options = {"validate_epochs": None, "checkpoint_epochs": None, "max_steps": 4}
    trainer = make("backprop", notes, validate_steps=2, checkpoint_steps=3, **options)
    trainer.fit()
    assert notes.lines == [
        *(("optimizer_end", 0), ("log", 0), ("optimizer_end", 1), ("log", 1)),
        ("validate_begin", 2),
        *(("optimizer_end", 2), ("log", 2), ("checkpoint", 3), ("optimizer_end", 3), ("log", 3)),
        *(("validate_begin", 4), ("checkpoint", 4)),
    ]
    assert trainer.counters.samples == 4 * PARTS * 8
    slowly = make("backprop", schedules=rates, max_steps=1)
    before = [p.clone() for p in weights(slowly)]
    slowly.fit()  # the rate of the update is that of step 0
    assert_same(weights(slowly), before)


def test_an_average_moves_once_an_update() -> None:
    average = EMA(rate=0.5)
    make("backprop", average).fit()
    assert int(average.averages["net"].n_averaged) == 11


def test_a_loss_that_is_no_number_is_seen_in_the_first_batch() -> None:
    trainer = make("backprop", StopOnNaN())
    dataset: Any = trainer.data["train"].dataset
    dataset.tensors["image"][3] = torch.inf
    before = [p.clone() for p in weights(trainer)]
    assert "not finite at step 0" in trainer.fit()
    assert_same(weights(trainer), before)
    assert trainer.counters.step == 0


@pytest.mark.parametrize("event", ["step_begin", "backward_end"])
def test_a_batch_that_is_cancelled_leaves_nothing_behind(event: str) -> None:
    class Skip(Callback):
        def _maybe(self, trainer: Trainer, phase: Any) -> None:
            if phase.training and trainer.counters.epoch == 0 and trainer.batch == 1:
                raise CancelStep

    setattr(Skip, f"on_{event}", Skip._maybe)

    class Order(Callback):
        def __init__(self) -> None:
            self.batches: list[int] = []

        def on_optimizer_end(self, trainer: Trainer, phase: Any) -> None:
            self.batches.append(trainer.batch)

    order = Order()
    trainer = make("backprop", Skip(), order, max_epochs=1)
    net = network()
    trainer.networks["net"][3].p = net[3].p = 0.0
    batches = list(trainer.data["train"].batches(0))
    trainer.fit()
    # Cancelled before its backward the batch is left out; after it the update begins anew.
    used = [0, 2, 3] if event == "step_begin" else [2, 3, 4]
    assert order.batches == used[-1:]
    losses = (cross_entropy(net(batches[n]["image"]), batches[n]["label"]) for n in used)
    assert_same(weights(trainer), every_third(list(net.parameters()), None, losses))


def test_the_finder_of_rates_leaves_them_as_they_are() -> None:
    trainer = make("backprop")
    curve = find_lr(trainer, count=5)
    assert len(set(curve.losses)) == 5
    assert (trainer.batches_per_step, trainer.counters.part) == (PARTS, 0)


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        ({"type": "dni", "unlock": "update", "lambda": 0.0}, "during the forward pass"),
        ({"type": "dni", "update_probability": 0.5}, "other sites learn in each"),
        (None, "a function steps as it likes"),
    ],
)
def test_what_updates_with_every_batch_is_refused(optimizer: Any, reason: str) -> None:
    net = network()
    step = classify(net, optimizer) if optimizer else (lambda trainer, batch, phase: None)
    data = {"train": Source(tensors(40, 2), batch_size=8)}
    with pytest.raises(ConfigError, match=f"the step 's' updates with every batch: .*{reason}"):
        Trainer({"net": net}, {"s": step}, data, batches_per_step=2)


def test_a_step_that_passes_over_batches_is_refused() -> None:
    net = network()
    step = classify(net, {"type": "sgd", "lr": 0.1}, requires=["rare"])
    data = {"train": Source(tensors(40, 2), batch_size=8)}
    with pytest.raises(ConfigError, match="batches that lack what it `requires` have no part"):
        Trainer({"net": net}, {"s": step}, data, batches_per_step=2)


def test_fewer_than_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="`batches_per_step` is 0; 1 or more"):
        make("backprop", parts=0)
