"""Every synthesizer keeps the same laws."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dni import DNI
from laws import (
    KINDS,
    TABLE,
    Lesson,
    Row,
    every_synthesizer,
    study,
    with_and_without_context,
)

every_kind = pytest.mark.parametrize(
    ("row", "kind"),
    [pytest.param(row, kind, id=f"{n}-{kind}") for n, row in TABLE.items() for kind in row.kinds],
)


def lesson_for(row: Row, *, context: bool) -> Lesson:
    return Lesson(KINDS[row.kinds[0]], context=context)


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    """Assert that two nested states are equal to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    elif isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def randomize(net: DNI) -> None:
    """Give the synthesizers weights that do not answer zero."""
    with torch.no_grad():
        for parameter in net.interfaces["site"].synthesizer.parameters():
            parameter.add_(torch.randn(parameter.shape).to(parameter), alpha=0.3)


@with_and_without_context
def test_the_first_synthetic_gradient_is_zero(row: Row, context: bool) -> None:
    for scale_targets in (False, True):
        net = row.wrap(context=context, λ=0.0, scale_targets=scale_targets)
        lesson = lesson_for(row, context=context)
        input, arguments = lesson.batch()
        lesson.loss(net(input, **arguments)).backward()
        assert all(p.grad is not None and not p.grad.any() for p in net.network.parameters())
        net.step()
        net.step()  # the statistics move on with the synthesizers
        assert net.statistics()["site"]["synthetic_norm"] == 0.0
        assert net.statistics()["site"]["true_norm"] > 0.0


@every_kind
def test_the_synthetic_gradient_has_the_shape_of_the_activation(row: Row, kind: str) -> None:
    for context in row.contexts:
        for batch in (1, 3):
            net = row.wrap(context=context, kind=kind, λ=0.0, scale_targets=False)
            randomize(net)
            lesson = Lesson(KINDS[kind], context=context)
            input, arguments = lesson.batch(batch)
            interface = net.interfaces["site"]
            # Listening keeps a critic from its closed form, which makes no prediction.
            interface.synthesizer.register_forward_hook(lambda *_: None)
            seen: list[Tensor] = []
            predict = interface.predict

            def spy(*args: Any, predict: Any = predict, seen: list[Tensor] = seen) -> Tensor:
                seen.append(predict(*args))
                return seen[-1]

            interface.predict = spy
            output = net(input, **arguments)
            lesson.loss(output).backward()
            assert [tuple(prediction.shape) for prediction in seen] == [tuple(output.shape)]
            assert seen[0].isfinite().all()
            assert seen[0].any()
            learning = [*net.network.parameters(), *interface.synthesizer.parameters()]
            assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
            net.step()


@every_kind
def test_a_sample_does_not_see_the_rest_of_its_batch(row: Row, kind: str) -> None:
    for context in row.contexts:
        net = row.wrap(context=context, kind=kind)
        randomize(net)
        interface = net.interfaces["site"].eval()  # batch normalization does, while it learns
        input, arguments = Lesson(KINDS[kind], context=context).batch(3)
        there, _ = KINDS[kind].axes
        axis = there[0]
        with torch.no_grad():
            activation = net.network(input)
            encoded = torch.eye(3)[arguments["context"]] if context else None
            together = interface.predict(activation, encoded)
            for n in range(3):
                own = None if encoded is None else encoded[n : n + 1]
                alone = interface.predict(activation.narrow(axis, n, 1), own)
                if row.synthesizer.in_gradient_units:
                    alone /= 3  # of a mean loss, over three samples
                torch.testing.assert_close(together.narrow(axis, n, 1), alone)


@with_and_without_context
def test_a_linear_teacher_is_learned(row: Row, context: bool) -> None:
    net = row.wrap(context=context, hidden_size=32)
    lesson = lesson_for(row, context=context)
    study(net, lesson, 250, network=False)
    input, arguments = lesson.batch(64)
    with torch.no_grad():
        activation = net.network(input)
        encoded = torch.eye(3)[lesson.labels] if context else None
        interface = net.interfaces["site"]
        true = lesson.gradient(activation)
        synthetic = interface.scale * interface.predict(activation, encoded)
    # The teacher of another batch size is smaller by its factor: a mean loss.
    if not row.synthesizer.in_gradient_units:
        synthetic *= 16 / 64
    error = ((synthetic - true).norm() / true.norm()).item()
    assert error < 0.5
    assert net.statistics()["site"]["relative_error"] < 0.7
    assert net.statistics()["site"]["cosine"] > 0.8


@with_and_without_context
def test_a_state_goes_into_a_fresh_wrapper_before_any_forward(row: Row, context: bool) -> None:
    net = row.wrap(context=context)
    lesson = lesson_for(row, context=context)
    study(net, lesson, 3)
    state = copy.deepcopy(net.state_dict())
    torch.manual_seed(99)
    fresh = row.wrap(context=context)
    fresh.load_state_dict(state)
    assert_equal(dict(fresh.state_dict()), dict(net.state_dict()))
    assert fresh.statistics() == net.statistics()

    input, arguments = lesson.batch()
    for wrapper in (net, fresh):
        wrapper.zero_grad()
        lesson.loss(wrapper(input, **arguments)).backward()
    for (name, a), b in zip(net.named_parameters(), fresh.parameters(), strict=True):
        assert_equal(a.grad, b.grad, name)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@with_and_without_context
def test_training_resumes_bit_for_bit(row: Row, context: bool, used: bool) -> None:
    net = row.wrap(context=context)
    lesson = lesson_for(row, context=context)
    study(net, lesson, 2)
    file = io.BytesIO()
    torch.save(net.training_state(), file)
    torch.manual_seed(99)
    resumed = row.wrap(context=context)
    if used:
        study(resumed, Lesson(lesson.kind, context=context), 3)
    file.seek(0)
    resumed.load_training_state(torch.load(file, weights_only=True))
    place = lesson.rng.get_state()
    for wrapper in (net, resumed):
        lesson.rng.set_state(place)
        study(wrapper, lesson, 3)
    assert_equal(resumed.training_state(), net.training_state())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@every_synthesizer
def test_the_synthesizer_follows_the_type_of_the_activation(row: Row, dtype: torch.dtype) -> None:
    before = row.wrap(context=True)
    before.to(dtype)
    after = row.wrap(context=True)
    after.network.to(dtype)  # the user converts the network and does not think of the interfaces
    for net in (before, after):
        lesson = lesson_for(row, context=True)
        study(net, lesson, 2)
        interface = net.interfaces["site"]
        floating = [p for p in interface.synthesizer.parameters() if p.is_floating_point()]
        assert {p.dtype for p in floating} == {dtype}
        assert interface.scale.dtype == torch.float32, "a sum of squares overflows half precision"
        input, context = lesson.batch()
        output = net(input.to(dtype), **context)
        assert output.dtype == dtype
        lesson.loss(output).backward()
        assert {p.grad.dtype for p in net.network.parameters() if p.grad is not None} == {dtype}
        net.step()
        assert all(p.isfinite().all() for p in net.parameters())
        assert net.statistics()["site"]["true_norm"] > 0


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "pickle"],
)
@every_synthesizer
def test_copies_are_equal_and_independent(row: Row, duplicate: Callable[[DNI], DNI]) -> None:
    net = row.wrap(context=True)
    lesson = lesson_for(row, context=True)
    study(net, lesson, 2)
    twin = duplicate(net)
    assert_equal(twin.training_state(), net.training_state())

    frozen = copy.deepcopy(net.training_state())
    place = lesson.rng.get_state()
    study(twin, lesson, 2)
    assert_equal(net.training_state(), frozen)
    assert not torch.equal(next(twin.network.parameters()), next(net.network.parameters()))
    lesson.rng.set_state(place)
    study(net, lesson, 2)
    assert_equal(twin.training_state(), net.training_state())
