"""Samples that are decoded by a thread while the one before is worked on."""

import threading
from typing import Any

import pytest
import torch

from segbench.data.split import Sample
from segbench.engine.evaluate import samples_ahead
from segbench.errors import DataError


class Slow:
    """A split that notes which thread asked for which sample."""

    def __init__(self, number: int, broken: int = -1) -> None:
        self.number, self.broken = number, broken
        self.asked: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return self.number

    def sample(self, index: int) -> Sample:
        self.asked.append((index, threading.current_thread().name.partition("_")[0]))
        if index == self.broken:
            raise DataError(f"{index} is damaged")
        empty = torch.zeros(0, dtype=torch.uint8)
        return Sample(str(index), empty, empty)


def _names(split: Any) -> list[str]:
    return [sample.name for sample in samples_ahead(split)]


@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_they_come_in_order_and_the_first_alone_is_waited_for(number):
    split = Slow(number)
    assert _names(split) == [str(index) for index in range(number)]
    assert [index for index, _ in split.asked] == list(range(number))
    assert {thread for index, thread in split.asked if index} <= {"decode"}


def test_one_is_held_beside_the_one_that_is_worked_on():
    split: Any = Slow(9)
    samples = samples_ahead(split)
    for worked_on in range(4):
        next(samples)
        assert len(split.asked) <= worked_on + 2
    samples.close()
    assert len(split.asked) <= 5


def test_a_damaged_one_is_told_when_its_turn_comes():
    split: Any = Slow(5, broken=2)
    samples = samples_ahead(split)
    assert [next(samples).name, next(samples).name] == ["0", "1"]
    with pytest.raises(DataError, match="2 is damaged"):
        next(samples)
