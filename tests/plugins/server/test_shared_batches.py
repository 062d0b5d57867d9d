"""Requests that come together share a batch, an error stays with its request, and the queue is bounded."""

from __future__ import annotations

import threading

import pytest

from worldclip.plugins.server.batches import Busy, SharedBatches


class Panic(BaseException):
    """A panic of a library in Rust."""


class Held:
    """Work that waits for `release`, and notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.release = threading.Event(), threading.Event()

    def __call__(self, items):
        self.batches.append(list(items))
        self.started.set()
        self.release.wait()
        for item in items:
            if isinstance(item, BaseException):
                raise item
        return [2 * item for item in items]


@pytest.fixture
def held():
    held = Held()
    yield held
    held.release.set()


def start(held, **limits):
    batches = SharedBatches(held, **{"max_batch": 4, "max_waiting": 8, **limits})
    first = batches.submit([0])
    held.started.wait()  # from here on requests wait
    return batches, first


def test_requests_that_wait_share_a_batch_up_to_its_size(held):
    batches, first = start(held)
    futures = [batches.submit([i, i]) for i in (1, 2, 3)]
    held.release.set()
    assert [future.result() for future in futures] == [[2, 2], [4, 4], [6, 6]]
    assert first.result() == [0]
    assert held.batches == [[0], [1, 1, 2, 2], [3, 3]]


def test_a_request_larger_than_a_batch_runs_alone(held):
    batches, _ = start(held)
    futures = [batches.submit(items) for items in ([1], [2] * 6, [3])]
    held.release.set()
    assert [len(future.result()) for future in futures] == [1, 6, 1]
    assert held.batches == [[0], [1], [2] * 6, [3]]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [(ValueError("no number"), ValueError, "no number"), (Panic("no index"), RuntimeError, "Panic: no index")],
)
def test_an_error_is_the_answer_of_its_request_alone(error, kind, message, held):
    batches, _ = start(held)
    good, bad, also_good = (batches.submit([item]) for item in (1, error, 3))
    held.release.set()
    with pytest.raises(kind, match=message):
        bad.result(10)
    assert good.result(10) == [2]
    assert also_good.result(10) == [6]


def test_a_full_queue_refuses_and_says_when_to_come_again(held):
    batches, _ = start(held)
    waiting = [batches.submit([1] * 4), batches.submit([1] * 4)]
    with pytest.raises(Busy) as error:
        batches.submit([1])
    assert error.value.retry_after >= 1
    assert batches.num_waiting == 8
    held.release.set()
    assert [future.result() for future in waiting] == [[2] * 4] * 2
    assert batches.submit([5]).result() == [10]


def test_a_cancelled_request_is_not_worked_on(held):
    batches, _ = start(held)
    future, other = batches.submit([1]), batches.submit([2])
    assert future.cancel()
    held.release.set()
    assert other.result() == [4]
    assert held.batches == [[0], [2]]


def test_closing_finishes_what_waits_and_refuses_more(held):
    batches, _ = start(held)
    future = batches.submit([1])
    held.release.set()
    batches.close()
    assert future.result(timeout=0) == [2]
    with pytest.raises(Busy):
        batches.submit([2])
