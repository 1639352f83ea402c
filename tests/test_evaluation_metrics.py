"""Evaluation metrics and their sums over ranks, compared with a loop over samples."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from limits import LIMIT

from regnet.distributed.world import World
from regnet.metrics.confident_errors import MAX_ERRORS, ConfidentErrorAccumulator
from regnet.metrics.evaluation import BINS, EvaluationAccumulator
from regnet.metrics.training import TrainingAccumulator

CPU = torch.device("cpu")
SINGLE_PROCESS = World(0, 1, 0, CPU, None, None)


class Meeting:
    """Where the threads of `on_ranks` exchange values."""

    def __init__(self, ranks):
        self.barrier, self.values = threading.Barrier(ranks, timeout=LIMIT), [None] * ranks


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread: its collectives meet those of the other threads."""

    meeting: Meeting

    def gather(self, value):
        self.meeting.barrier.wait()
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        return list(self.meeting.values)

    def sum_(self, tensor):
        return tensor.copy_(sum(self.gather(tensor.clone())))


def on_ranks(ranks, action):
    """The results of `action`, a function of the world, on all ranks."""
    meeting = Meeting(ranks)
    worlds = [ThreadWorld(rank, ranks, rank, CPU, None, None, meeting) for rank in range(ranks)]

    def run(world):
        try:
            return action(world)
        except BaseException:
            meeting.barrier.abort()  # or the other ranks would wait for this one
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, worlds))


def batch(seed, samples, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


def evaluated(logits, labels, world=SINGLE_PROCESS, batch_size=7):
    accumulator = EvaluationAccumulator(logits.shape[1], CPU)
    for some_logits, some_labels in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        accumulator.update(some_logits, some_labels)
    return accumulator.result(world)


@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([2, 4, 5, 6, 20, 40]))
def test_evaluation_metrics_follow_their_definitions(seed, samples, classes):
    logits, labels = batch(seed, samples, classes)
    found = evaluated(logits, labels)
    ranks = [(row > row[label]).sum().item() for row, label in zip(logits, labels, strict=True)]
    assert (found.samples, found.top1) == (samples, ranks.count(0) / samples)
    assert found.top5 == sum(rank < 5 for rank in ranks) / samples
    assert found.columns() == {"val_loss": found.loss, "val_top1": found.top1, "val_top5": found.top5}
    counts = labels.bincount(minlength=classes).tolist()
    assert found.class_samples() == counts
    for label, accuracy in enumerate(found.class_accuracy()):
        hits = [rank == 0 for rank, other in zip(ranks, labels.tolist(), strict=True) if other == label]
        assert accuracy == (sum(hits) / len(hits) if hits else None)
    expected = torch.zeros(3, BINS, dtype=torch.float64)
    for confidence, rank in zip(logits.softmax(1).max(1).values.double(), ranks, strict=True):
        expected[:, math.ceil(confidence * BINS) - 1] += torch.tensor([1, rank == 0, confidence], dtype=torch.float64)
    assert found.calibration.shape == (3, 15)
    torch.testing.assert_close(found.calibration, expected)
    assert found.calibration_error == pytest.approx((expected[2] - expected[1]).abs().sum().item() / samples)


def test_the_lowest_confidences_are_in_the_first_bin():
    """They need at least 15 classes: here 20, of almost the same probability."""
    logits = torch.zeros(4, 20)
    logits[:, 0] = 0.01
    found = evaluated(logits, torch.arange(4))
    assert found.calibration[:, 0].tolist() == pytest.approx([4, 1, 4 / 20], rel=0.02)
    assert not found.calibration[:, 1:].any()


def test_a_group_without_samples_has_no_accuracy():
    """Class 3, the only one of group 2, has no samples; a prediction within the group of the label is correct."""
    labels, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 1, 3])
    found = evaluated(torch.nn.functional.one_hot(predicted, 4).float(), labels)
    assert found.group_accuracy(torch.tensor([0, 0, 1, 2])) == [pytest.approx(2 / 3), 0, None]


def test_an_evaluation_without_samples_has_no_metrics():
    found = EvaluationAccumulator(3, CPU).result(SINGLE_PROCESS)
    assert found.samples == 0
    assert all(math.isnan(value) for value in (found.loss, found.top1, found.top5, found.calibration_error))
    assert found.class_accuracy() == [None] * 3


def test_samples_of_a_diverged_network_are_counted():
    """Logits that are not numbers have no confidence, and must not end the evaluation."""
    logits, labels = torch.full((4, 3), torch.nan), torch.tensor([0, 1, 2, 2])
    found = evaluated(logits, labels)
    assert (found.samples, found.class_samples()) == (4, [1, 1, 2])
    assert math.isnan(found.loss)


def rank_parts(tensors, world):
    """This rank's part of each tensor: the last of several ranks has no sample."""
    parts = max(1, world.size - 1)
    if world.rank >= parts:
        return [tensor[:0] for tensor in tensors]
    return [tensor[world.rank :: parts] for tensor in tensors]


@given(st.integers(0, 2**31), st.integers(1, 80), st.integers(2, 4))
def test_ranks_find_what_one_process_finds(seed, samples, ranks):
    logits, labels = batch(seed, samples, 6)
    images = torch.rand(samples, 3, 2, 2, generator=torch.Generator().manual_seed(seed))

    def metrics(world):
        some_logits, some_labels, some_images = rank_parts((logits, labels, images), world)
        evaluation, training = EvaluationAccumulator(6, CPU), TrainingAccumulator(6, CPU)
        errors = ConfidentErrorAccumulator()
        if len(some_labels):
            evaluation.update(some_logits, some_labels)
            training.update(some_logits, some_labels, some_logits.sum().double())
            errors.update(some_images, some_logits, some_labels)
        return evaluation.result(world), training.summed(world).result(), errors.result(world)

    (evaluation, training, errors), *others = [metrics(SINGLE_PROCESS), *on_ranks(ranks, metrics)]
    assert len(errors.confidence) == min(MAX_ERRORS, int((logits.argmax(1) != labels).sum()))
    for other_evaluation, other_training, other_errors in others:
        assert other_evaluation.confusion.equal(evaluation.confusion)
        assert other_evaluation.top5 == evaluation.top5
        assert other_evaluation.loss == pytest.approx(evaluation.loss)
        torch.testing.assert_close(other_evaluation.calibration, evaluation.calibration)
        assert (other_training.top1, other_training.top5) == (training.top1, training.top5)
        assert other_training.class_samples == training.class_samples
        # Sums of float32 in another order; they may cancel.
        assert other_training.loss == pytest.approx(training.loss, rel=1e-5, abs=1e-5)
        for name, value in vars(errors).items():
            assert vars(other_errors)[name].equal(value), name


@given(st.integers(0, 2**31), st.integers(0, 40), st.sampled_from([2, 4, 5, 6, 20]))
def test_a_checkpoint_holds_the_top_5_hits_of_training(seed, samples, classes):
    logits, labels = batch(seed, samples, classes)
    accumulator = TrainingAccumulator(classes, CPU)
    accumulator.update(logits, labels, torch.tensor(0.0))
    ranks = [(row > row[label]).sum().item() for row, label in zip(logits, labels, strict=True)]
    assert accumulator.state_dict()["top5"] == sum(rank < 5 for rank in ranks)
