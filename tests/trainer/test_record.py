"""The record hands everything to its sinks, reads tensors at once, and averages by samples."""

from __future__ import annotations

import math

import pytest
import torch

from dni.errors import ConfigError
from dni.trainer.record import Average, Entries, Record, read


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[int, int, Entries]] = []

    def write(self, entries: Entries, step: int, epoch: int) -> None:
        self.heard.append((step, epoch, entries))


@pytest.fixture
def record() -> Record:
    record = Record()
    record.sinks.append(Listener())
    return record


def heard(record: Record) -> list[tuple[int, int, Entries]]:
    sink = record.sinks[0]
    assert isinstance(sink, Listener)
    return sink.heard


def test_every_kind_reaches_the_sink_once(record: Record) -> None:
    figure = object()
    record.scalar("a", 1)
    record.scalar("b", torch.tensor([2.5], requires_grad=True))
    record.image("i", torch.zeros(3, 2, 2, dtype=torch.uint8))
    record.figure("f", figure)
    record.histogram("h", torch.arange(3.0))
    record.text("t", "words")
    record.flush(step=7, epoch=2)
    record.flush(step=8, epoch=2)
    ((step, epoch, entries),) = heard(record)
    assert (step, epoch) == (7, 2)
    assert entries.scalars == {"a": 1.0, "b": 2.5}
    assert list(entries.images) == ["i"]
    assert entries.figures == {"f": figure}
    assert entries.histograms["h"].tolist() == [0, 1, 2]
    assert entries.text == {"t": "words"}


def test_a_scalar_keeps_no_graph_and_is_read_when_flushed(record: Record) -> None:
    value = torch.tensor(1.0)
    record.scalar("late", value)
    value.add_(1)
    record.flush(step=0)
    assert record.value("late") == 2.0
    weight = torch.tensor(1.0, requires_grad=True)
    record.scalar("graph", weight * 2)
    assert not record._scalars["graph"].requires_grad  # type: ignore[union-attr]


def test_the_latest_value_stays_and_a_misspelt_one_is_named(record: Record) -> None:
    with pytest.raises(ConfigError, match="Nothing was reported at all"):
        record.value("validation/accuracy")
    record.scalar("validation/accuracy", 0.5)
    record.flush(step=0)
    record.scalar("other", 0.5)
    record.flush(step=1)
    assert record.value("validation/accuracy") == 0.5
    with pytest.raises(ConfigError, match="Did you mean 'validation/accuracy'"):
        record.value("validation/acuracy")


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 2, 2),
        torch.zeros(2, 2, dtype=torch.uint8),
        torch.zeros(2, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
    ],
)
def test_what_is_no_image_is_refused(record: Record, image: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="The image 'x' is"):
        record.image("x", image)


def test_a_scalar_of_several_numbers_is_refused(record: Record) -> None:
    with pytest.raises(ConfigError, match=r"'x' was given a tensor of shape \(2,\)"):
        record.scalar("x", torch.zeros(2))


def test_a_scalar_of_words_is_refused(record: Record) -> None:
    with pytest.raises(ConfigError, match="'x' was given 'high'; it takes one number"):
        record.scalar("x", "high")  # type: ignore[arg-type]


def test_a_rehearsal_leaves_no_trace(record: Record) -> None:
    record.scalar("before", 1.0)
    with record.muted():
        record.scalar("inside", 2.0)
        record.flush(step=0)
        record.scalar("unflushed", 2.0)
    record.flush(step=0)
    assert [entries.scalars for _, _, entries in heard(record)] == [{"before": 1.0}]
    assert record.latest == {"before": 1.0}


def test_the_record_resumes(record: Record) -> None:
    record.scalar("a", 1.0)
    record.flush(step=0)
    record.scalar("b", torch.tensor(2.0))
    other = Record()
    other.load_state_dict(record.state_dict())
    assert other.latest == {"a": 1.0}
    assert other.flush(step=1).scalars == {"b": 2.0}


def test_reading_keeps_order_and_values() -> None:
    values = {"x": torch.tensor(1), "y": 2, "z": torch.tensor([[0.25]]), "n": math.inf}
    assert list(read(values).items()) == [("x", 1.0), ("y", 2.0), ("z", 0.25), ("n", math.inf)]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_an_average_is_weighted_by_samples(count: int) -> None:
    values, weights = torch.randn(count).double(), torch.randint(1, 9, (count,))
    average = Average()
    for value, weight in zip(values, weights.tolist(), strict=True):
        average.update(value, weight)
    expected = (values * weights).sum() / weights.sum()
    torch.testing.assert_close(average.compute(), expected)


@pytest.mark.parametrize("cut", [0, 1, 40, 64, 100])
def test_an_average_resumes_bit_for_bit(cut: int) -> None:
    values = torch.randn(150)
    whole, first, second = Average(), Average(), Average()
    for index, value in enumerate(values):
        whole.update(value, 1 + index % 5)
        if index < cut:
            first.update(value, 1 + index % 5)
    second.load_state_dict(first.state_dict())
    for index, value in list(enumerate(values))[cut:]:
        second.update(value, 1 + index % 5)
    assert second.compute().item() == whole.compute().item()


def test_averages_merge_and_start_empty() -> None:
    one, other = Average(), Average()
    assert math.isnan(one.compute().item())
    one.update(torch.tensor(1.0), 1)
    other.update(torch.tensor(4.0), 2)
    one.merge_state(other)
    assert one.compute().item() == 3.0
    one.reset()
    assert math.isnan(one.compute().item())
