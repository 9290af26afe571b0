"""The values of a batch: attributes, writers, detaching, chunks."""

from __future__ import annotations

import pytest
import torch

from dni.errors import ConfigError
from dni.trainer.state import State


def test_entries_are_attributes() -> None:
    state = State(image=1)
    state.label = 2
    assert state["label"] == 2
    del state.image
    with pytest.raises(AttributeError, match="'labell'.*'label'"):
        _ = state.labell


def test_a_key_is_written_once_unless_told() -> None:
    state = State(image=1)
    with pytest.raises(ConfigError, match="'image', which the data has written"):
        state.write("image", 2, by="injector 'a'")
    state.write("out", 2, by="injector 'a'")
    with pytest.raises(ConfigError, match="'out', which the injector 'a' has written"):
        state.write("out", 3, by="injector 'b'")
    state.write("out", 3, by="injector 'b'", overwrite=True)
    assert state.out == 3


def test_reading_what_is_not_there_names_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match=r"loss 'ce' reads 'logit'.*'logits'"):
        State(logits=1).read("logit", by="loss 'ce'")


def test_detach_reaches_into_containers_and_spares_what_is_kept() -> None:
    x = torch.ones(2, requires_grad=True) * 2
    state = State(a=x, b=[x, {"c": x}], kept=x, number=0.5)
    state.detach(list(state), keep=["kept"])
    assert not state.a.requires_grad
    assert not state.b[1]["c"].requires_grad
    assert state.kept is x
    assert state.number == 0.5


def test_a_chunk_takes_rows_of_what_has_the_batch_size() -> None:
    state = State(x=torch.arange(5), names=list("abcde"), table=torch.zeros(3), rate=0.1)
    part = state.chunk(state, slice(3, 5), 5)
    assert part.x.tolist() == [3, 4]
    assert part.names == ["d", "e"]
    assert part.table.shape == (3,)
    assert part.rate == 0.1
