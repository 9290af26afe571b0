"""The synthesizer that is fitted: its steps beside dense least squares, and what it forgets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni import ConfigError, TemporalDNI
from dni.synthesizers import LeastSquaresDNI


def features_of(input: Tensor, context: Tensor) -> Tensor:
    bent, ones = input.tanh(), input.new_ones(len(input), 1)
    return torch.cat([input, bent, bent * bent, context, ones], 1)


@pytest.mark.parametrize("batch", [5, 40])  # fewer rows than its 12 features, and more
def test_a_first_step_is_that_of_dense_least_squares(batch: int) -> None:
    torch.manual_seed(0)
    synthesizer = LeastSquaresDNI(3, 0, 2, context_size=2, ridge=0.7).double()
    nn.init.normal_(synthesizer.weight)
    before = synthesizer.weight.detach().clone()
    input, context = torch.randn(batch, 3).double(), torch.randn(batch, 2).double()
    target = torch.randn(batch, 2).double()
    prediction, _ = synthesizer(input, None, context)
    rows = features_of(input, context)
    torch.testing.assert_close(prediction, rows @ before.T)
    (prediction - target).square().sum(1).mean().backward()

    # What was seen counts four times, so that the look at one call stands for four; the batch
    # is then one more observation beside a belief of that certainty.
    certainty = 4 * rows.T @ rows + 0.7 * torch.eye(12).double()
    normal = certainty + rows.T @ rows
    expected = torch.linalg.solve(normal, certainty @ before.T + rows.T @ target).T
    torch.testing.assert_close(before - synthesizer.weight.grad, expected)


def test_sequences_that_ended_do_not_weaken_the_step_of_the_others() -> None:
    torch.manual_seed(0)
    synthesizer = LeastSquaresDNI(3, 0, 2, curves=False)
    input, goes_on = torch.randn(6, 3), torch.tensor([True, False, True, True, False, True])
    prediction, _ = synthesizer(input, None)
    errors = (prediction - 1).square().sum(1)
    (every,) = torch.autograd.grad(errors[goes_on].sum() / 6, synthesizer.weight, retain_graph=True)
    (some,) = torch.autograd.grad(errors[goes_on].mean(), synthesizer.weight)
    torch.testing.assert_close(some * 4 / 6, every * 1.0)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_it_finds_what_is_there_and_forgets_what_was(lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    synthesizer = LeastSquaresDNI(4, 0, 2, memory=50, ridge=1.0)
    optimizer = torch.optim.SGD(synthesizer.parameters(), lr=1)
    for teacher in torch.randn(2, 4, 2):
        for _ in range(300):
            input = torch.randn(*lead, 16, 4) * torch.tensor([10.0, 1.0, 0.1, 0.1])
            target = input @ teacher + torch.randn(*lead, 16, 2)
            optimizer.zero_grad()
            prediction, _ = synthesizer(input, None)
            assert prediction.shape == target.shape
            (prediction - target).square().sum(-1).mean().backward()
            optimizer.step()
        input = torch.randn(200, 4) * torch.tensor([10.0, 1.0, 0.1, 0.1])
        with torch.no_grad():
            error = synthesizer(input, None)[0] - input @ teacher
        assert error.square().mean() < 0.05  # a twentieth of the noise it was taught with


def test_without_gradients_it_takes_no_note() -> None:
    synthesizer = LeastSquaresDNI(4, 0, 2)
    before = copy.deepcopy(synthesizer.state_dict())
    with torch.no_grad():
        synthesizer(torch.randn(5, 4), None)
    for name, value in synthesizer.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(before[name]))


def make() -> TemporalDNI:
    return TemporalDNI(
        nn.LSTM(3, 5),
        "least_squares",
        {"ridge": 5.0},
        optim="adam",
        grad_optim="sgd",
        grad_lr=1.0,
        scale=1.0,
        context_size=2,
    )


def run(net: TemporalDNI, state: object, windows: Tensor) -> object:
    for window in windows:
        output, state = net(window[:, :, :3], state, context=window[-1, :, 3:])
        (output - window[:, :, :1]).square().mean().backward()
    return state


def test_between_windows_it_predicts_and_goes_on_to_the_bit() -> None:
    torch.manual_seed(0)
    net, windows = make(), torch.randn(60, 3, 8, 5)
    state = run(net, None, windows[:45])
    assert net.statistics()["state"]["synthetic_norm"] > 0
    saved = copy.deepcopy(net.training_state())
    run(net, state, windows[45:])
    other = make()
    other.load_training_state(saved)
    run(other, state, windows[45:])
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(value, other.state_dict()[name]), name
    assert net.interfaces["state"].synthesizer.calls == 59


@pytest.mark.parametrize(
    ("given", "named"),
    [({"memory": 0}, "memory"), ({"ridge": 0.0}, "ridge"), ({"ridge": True}, "ridge")],
)
def test_what_cannot_work_is_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LeastSquaresDNI(4, 8, 4, **given)  # type: ignore[arg-type]
