"""Batches prepared on a second stream: the order that is enforced on the device, and what may run concurrently.

FakeCuda stands for torch.cuda: it knows for every piece of work which others are complete before it starts.
"""

import weakref
from contextlib import contextmanager

import pytest
import torch

from data.loader import with_own_memory
from data.run_ahead import SLOTS, RunAhead
from regnet.training.cuda_graphs import CapturedFunction, GraphCapture


class FakeStream:
    def __init__(self, device=None):
        self.before = frozenset()  # work that is complete before what is enqueued next

    def enqueue(self, work):
        done, self.before = self.before, self.before | {work}
        return done

    def wait_stream(self, other):
        self.before |= other.before

    def wait_event(self, event):
        self.before |= event.before

    def record_event(self):
        event = FakeEvent()
        event.record(self)
        return event


class FakeEvent:
    before = frozenset()

    def record(self, stream):
        self.before = stream.before


class FakeCuda:
    Stream, Event = FakeStream, FakeEvent

    def __init__(self):
        self.current = self.default = FakeStream()

    def current_stream(self, device):
        return self.current

    @contextmanager
    def stream(self, stream):
        outer, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = outer


class Item:
    """A batch, of which weak references can be taken."""


def prepared(cuda, count, order, epoch=0):
    """A generator that enqueues the preparation of each batch on the current stream."""
    for step in range(count):
        order["prepare", epoch, step] = cuda.current.enqueue(("prepare", epoch, step))
        yield Item()


def train(cuda, batches, order, epoch=0):
    for step, _ in enumerate(batches):
        assert cuda.current is cuda.default
        order["use", epoch, step] = cuda.current.enqueue(("use", epoch, step))


@pytest.fixture
def cuda():
    return FakeCuda()


def test_a_step_waits_for_its_batch_and_a_batch_for_the_step_that_used_its_memory(cuda):
    order = {}
    train(cuda, RunAhead(None, cuda)(prepared(cuda, 7, order)), order)
    for step in range(7):
        assert ("prepare", 0, step) in order["use", 0, step]
        if step >= SLOTS:
            assert ("use", 0, step - SLOTS) in order["prepare", 0, step]


def test_a_batch_is_prepared_concurrently_with_the_step_before(cuda):
    order = {}
    train(cuda, RunAhead(None, cuda)(prepared(cuda, 7, order)), order)
    for step in range(1, 7):
        assert ("use", 0, step - 1) not in order["prepare", 0, step]


def test_the_memory_of_the_last_batches_is_reused_after_their_steps(cuda):
    order, ahead = {}, RunAhead(None, cuda)
    train(cuda, ahead(prepared(cuda, 3, order)), order)
    assert {("use", 0, step) for step in range(3)} <= ahead.stream.before


def test_a_batch_is_prepared_after_what_the_caller_had_enqueued_before_the_epoch(cuda):
    order = {}
    cuda.default.enqueue("images were copied to the device")
    train(cuda, RunAhead(None, cuda)(prepared(cuda, 3, order)), order)
    assert "images were copied to the device" in order["prepare", 0, 0]


def test_the_memory_of_a_batch_is_kept_until_the_next_but_one_is_prepared(cuda):
    alive = []

    def batches():
        kept = []
        for _ in range(6):
            alive.append([batch() is not None for batch in kept])
            item = Item()
            kept.append(weakref.ref(item))
            yield item
            del item

    for _ in RunAhead(None, cuda)(batches()):
        pass
    assert alive == [[], [True], [False, True], [False, False, True], [False] * 3 + [True], [False] * 4 + [True]]


def test_an_epoch_that_ends_early_closes_its_reader(cuda):
    closed = []

    def batches():
        try:
            while True:
                yield Item()
        finally:
            closed.append(True)

    reader = batches()  # a reference, or it would be closed as garbage
    ahead = RunAhead(None, cuda)(reader)
    next(ahead)
    assert not closed
    ahead.close()
    assert closed


def test_an_error_of_the_reader_reaches_the_consumer_on_its_own_stream(cuda):
    def batches():
        yield Item()
        raise ValueError("no such pixel")

    ahead = RunAhead(None, cuda)(batches())
    next(ahead)
    with pytest.raises(ValueError, match="no such pixel"):
        next(ahead)
    assert cuda.current is cuda.default


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True])
def test_slow_steps_see_every_batch_unchanged(captured):
    """Each step waits on the device before it reads its batch: without the events, later batches would be in it."""

    def prepare(values, labels, numbers):
        return values * 2 + numbers, labels, numbers

    if captured:
        prepare = with_own_memory(CapturedFunction(GraphCapture("the batches", required=True, report=print), prepare))
    device, seen = torch.device("cuda"), []

    def batches():
        for step in range(50):
            values = torch.full((1 << 20,), step, device=device)
            yield prepare(values, values, torch.ones_like(values))

    ahead = RunAhead(device)
    for _ in range(2):
        for images, labels, _ in ahead(batches()):
            torch.cuda._sleep(2_000_000)  # cycles
            seen.append(torch.stack([images.double().mean(), labels.double().mean()]))
    assert torch.stack(seen).tolist() == [[2 * step + 1, step] for step in range(50)] * 2


def test_a_replay_does_not_change_the_batch_before():
    """`memory` stands for the outputs of a captured graph."""
    memory = [torch.zeros(3) for _ in range(3)]

    def replay(*inputs):
        for output, value in zip(memory, inputs, strict=True):
            output.copy_(value)
        return tuple(memory)

    transform = with_own_memory(replay)
    first = transform(*torch.arange(3).repeat_interleave(3).view(3, 3))
    transform(*torch.zeros(3, 3))
    assert torch.equal(torch.stack(first), torch.arange(3.0).repeat_interleave(3).view(3, 3))
