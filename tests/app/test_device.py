"""Batches of work on a device, whose memory may be short."""

import pytest
import torch

from app.device import by_halves

SHORT = [MemoryError(), torch.OutOfMemoryError(), RuntimeError("can't allocate memory")]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_a_batch_is_halved_until_it_fits(error: Exception, room: int) -> None:
    def work(batch: list[int]) -> list[int]:
        if len(batch) > room:
            raise error
        return [2 * item for item in batch]

    assert by_halves(work, list(range(7))) == list(range(0, 14, 2))


def test_what_does_not_fit_alone_fails() -> None:
    """And nothing else of its batch does."""
    error = MemoryError()

    def work(batch: list[int]) -> list[int]:
        if 2 in batch:
            raise error
        return batch

    assert by_halves(work, [1, 2, 3]) == [1, error, 3]


def test_other_failures_are_not_tried_again() -> None:
    tried = []

    def work(batch: list[int]) -> list[int]:
        tried.append(batch)
        raise ValueError("not that")

    with pytest.raises(ValueError, match="not that"):
        by_halves(work, [1, 2])
    assert tried == [[1, 2]]
