"""Data: order, position, collation, and the data sets there are by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dni.errors import ConfigError
from dni.trainer.data import Source, make_source
from dni.trainer.datasets import Tensors

NUMBERS = torch.arange(10)


class Pairs(Dataset[Any]):
    classes = ("even", "odd")

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index]), index % 2


def seen(source: Source, epoch: int = 0, **options: Any) -> list[list[int]]:
    return [
        next(iter(batch.values())).flatten().tolist() for batch in source.batches(epoch, **options)
    ]


def sources() -> dict[str, Source]:
    options: dict[str, Any] = {"batch_size": 4, "seed": 3, "keys": ("x", "y"), "drop_last": False}
    loader = DataLoader(Pairs(), batch_size=4, shuffle=True)
    return {
        "tensors": Source(Tensors(x=NUMBERS, y=NUMBERS % 2), **options),
        "tensor dataset": Source(TensorDataset(NUMBERS, NUMBERS % 2), **options),
        "dataset": Source(Pairs(), **options),
        "list": Source([{"x": torch.tensor(i), "y": i % 2} for i in range(10)], **options),
        "loader": Source(loader, seed=3, keys=("x", "y")),
    }


@pytest.mark.parametrize("kind", list(sources()))
def test_the_order_is_a_function_of_seed_and_epoch(kind: str) -> None:
    source = sources()[kind]
    first, second = seen(source, 0, training=True), seen(source, 1, training=True)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(sum(first, [])) == list(range(10))
    assert first != second
    torch.rand(5)
    assert seen(source, 0, training=True) == first == seen(sources()["tensors"], training=True)
    assert [seen(source, 0, start=k, training=True) for k in range(4)] == [
        first[k:] for k in range(4)
    ]
    assert source.count(training=True) == 3


def test_shuffled_and_cut_in_training_alone() -> None:
    source = Source(Tensors(x=NUMBERS), batch_size=4, seed=0)
    assert seen(source) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert source.count() == 3
    assert [len(batch) for batch in seen(source, training=True)] == [4, 4]
    assert source.count(training=True) == 2
    small = Source(Tensors(x=NUMBERS), batch_size=64)
    assert small.count(training=True) == len(seen(small, training=True)) == 1


def test_workers_give_the_same_batches() -> None:
    source = Source(Pairs(), batch_size=4, workers=1, keys=("x", "y"), shuffle=False)
    state = torch.get_rng_state()
    assert seen(source, start=1) == [[4, 5, 6, 7], [8, 9]]
    assert torch.equal(torch.get_rng_state(), state)


def test_ready_batches_are_taken_as_they_are() -> None:
    class Batches:
        def __iter__(self) -> Any:
            return iter([(NUMBERS[:3], NUMBERS[:3]), (NUMBERS[3:], NUMBERS[3:])])

    source = Source(Batches())
    assert (source.count(), seen(source, start=1)) == (None, [[3, 4, 5, 6, 7, 8, 9]])
    assert list(source.peek()) == ["image", "label"]


def test_classes_are_counted_where_they_are_known() -> None:
    assert Source(Pairs()).num_classes == 2
    assert Source(Pairs(), num_classes=5).num_classes == 5
    assert Source(Tensors(x=NUMBERS)).num_classes is None


def test_digits_are_real_and_in_two_parts() -> None:
    train, test = make_source("digits", batch_size=64), make_source("digits", split="test")
    assert (len(train.dataset), len(test.dataset)) == (1437, 360)
    assert (train.batch_size, train.num_classes) == (64, 10)
    batch = train.peek()
    assert batch["image"].shape == (64, 1, 8, 8)
    assert batch["label"].dtype == torch.int64
    images = train.dataset.tensors["image"]
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_a_class_of_ones_own_is_made_with_its_arguments() -> None:
    class Mine(Pairs):
        def __init__(self, length: int) -> None:
            self.length = length

        def __len__(self) -> int:
            return self.length

    assert make_source(Mine, length=3, batch_size=2).count() == 2
    with pytest.raises(ConfigError, match="no argument 'lenght'. Did you mean 'length'"):
        make_source(Mine, lenght=3)
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        make_source("digit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Source(iter([1])), "can be read only once"),
        (lambda: Source(3), "a torch Dataset, a sequence"),
        (lambda: Source([1], batch_size=0), "`batch_size` is 0"),
        (lambda: Source([1], batch_size=True), "`batch_size` is True"),
        (lambda: Tensors(x=NUMBERS, y=NUMBERS[:3]), "Tensors of one length"),
        (lambda: Source(Pairs(), keys=("x",)).peek(), "2 parts and `keys` names 1"),
        (lambda: Source([object()]).peek(), "something that no batch can be made of"),
        (lambda: Source([]).peek(), "not one batch"),
        (lambda: make_source("digits", split="validation"), "`split` is 'validation'"),
        (lambda: make_source("mnist", root="nowhere", download=False), "nowhere/MNIST/raw"),
    ],
)
def test_bad_data_is_told(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
