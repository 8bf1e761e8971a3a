"""A model and its threads; batches of work on a device, whose memory may be short."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app import device
from app.device import Model, by_halves, load
from app.settings import Settings
from model.runtime import Runtime

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


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(device, "THREADS", 2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_all_threads_are_for_the_one_that_runs_the_model(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(Runtime, "set_threads", lambda _, most: given.append(most))
    model = Model(load(Settings(bundle=bundle_path)))
    assert torch.get_num_threads() == 1
    model.settle()
    assert given == [2]
