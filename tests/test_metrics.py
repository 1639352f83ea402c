"""Metrics of training and evaluation, and their sums over batches and ranks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples
from torch.nn import functional as F

from benchmarks.step.kernels import KernelCounter
from regnet.distributed.world import World
from regnet.metrics.training import TrainingAccumulator

CPU = torch.device("cpu")
SINGLE_PROCESS = World(rank=0, size=1, local_rank=0, device=CPU, control=None, heartbeat=None)


@st.composite
def samples(draw):
    """Logits without ties (n, classes), labels (n,)."""
    classes, count = draw(st.integers(1, 9)), draw(st.integers(0, 20))
    rows = [draw(st.permutations(range(classes))) for _ in range(count)]
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return torch.tensor(rows, dtype=torch.float32).view(count, classes) / 3, torch.tensor(labels, dtype=torch.int64)


def accumulated(logits, labels):
    accumulator = TrainingAccumulator(logits.shape[1], CPU)
    accumulator.update(logits, labels, F.cross_entropy(logits, labels, reduction="sum"))
    return accumulator


def rank_of_label(row, label):
    """Number of classes with a larger logit than the label's."""
    return sum(logit > row[label] for logit in row)


def integer_counts(result):
    return result.samples, result.class_correct, result.class_samples


@given(samples())
@examples(80)
def test_metrics_agree_with_a_loop_over_samples(batch):
    logits, labels = batch
    result = accumulated(logits, labels).result()
    rows = list(zip(logits.tolist(), labels.tolist(), strict=True))
    ranks = [rank_of_label(row, label) for row, label in rows]
    losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in rows]
    for actual, expected in (
        (result.loss, sum(losses)),
        (result.top1, sum(rank < 1 for rank in ranks)),
        (result.top5, sum(rank < 5 for rank in ranks)),
    ):
        assert actual == pytest.approx(expected / len(rows) if rows else math.nan, rel=1e-5, abs=1e-6, nan_ok=True)
    for label in range(logits.shape[1]):
        class_ranks = [rank for rank, (_, other) in zip(ranks, rows, strict=True) if other == label]
        assert result.class_samples[label] == len(class_ranks)
        assert result.class_correct[label] == class_ranks.count(0)
        expected = class_ranks.count(0) / len(class_ranks) if class_ranks else None
        assert result.class_accuracy[label] == expected
    assert result.samples == len(rows)


@pytest.mark.parametrize("samples", [1, 7, 49, 10_000])
def test_perfect_accuracy_is_exactly_one(samples):
    labels = torch.arange(samples) % 3
    result = accumulated(F.one_hot(labels, 3).float(), labels).result()
    assert (result.top1, result.top5) == (1, 1)


@given(samples(), st.lists(st.integers(0, 20), max_size=5))
@examples(80)
def test_counts_do_not_depend_on_how_samples_are_distributed_over_batches(batch, boundaries):
    logits, labels = batch
    at_once = accumulated(logits, labels).result()
    parts = TrainingAccumulator(logits.shape[1], CPU)
    boundaries = sorted(boundaries)
    for some_logits, some_labels in zip(logits.tensor_split(boundaries), labels.tensor_split(boundaries), strict=True):
        parts.update(some_logits, some_labels, F.cross_entropy(some_logits, some_labels, reduction="sum"))
    split = parts.result()
    assert integer_counts(split) == integer_counts(at_once)
    assert split.top5 == pytest.approx(at_once.top5, rel=0, abs=0, nan_ok=True)
    assert split.loss == pytest.approx(at_once.loss, rel=1e-5, abs=1e-6, nan_ok=True)


@given(samples())
@examples(30)
def test_a_restored_state_and_the_sum_over_one_process_are_equal(batch):
    accumulator = accumulated(*batch)
    restored = TrainingAccumulator(batch[0].shape[1], CPU)
    restored.load_state_dict(accumulator.state_dict())
    for other in (restored, accumulator.summed(SINGLE_PROCESS)):
        assert integer_counts(other.result()) == integer_counts(accumulator.result())
        assert other.result().loss == pytest.approx(accumulator.result().loss, nan_ok=True)


def test_summing_does_not_change_the_accumulator():
    accumulator = accumulated(torch.eye(3), torch.arange(3))
    total = accumulator.summed(SINGLE_PROCESS)
    total.update(torch.eye(3), torch.arange(3), torch.tensor(0.0))
    assert accumulator.result().samples == 3
    assert total.result().samples == 6


def test_without_samples_metrics_are_nan_and_classes_have_no_accuracy():
    result = TrainingAccumulator(4, CPU).result()
    assert result.samples == 0
    assert all(math.isnan(value) for value in (result.loss, result.top1, result.top5))
    assert result.class_accuracy == (None,) * 4


def test_small_losses_are_not_lost_in_a_large_sum():
    accumulator = TrainingAccumulator(2, CPU)
    accumulator.update(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.tensor(1e8))
    for _ in range(1000):
        accumulator.update(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.tensor(1.0))
    assert accumulator.result().loss * 1001 == pytest.approx(1e8 + 1000, rel=1e-9)


@given(samples())
@examples(30)
def test_the_state_has_the_documented_tensors_and_restores_all_sums(batch):
    accumulator = accumulated(*batch)
    state = accumulator.state_dict()
    classes = batch[0].shape[1]
    assert {name: (value.dtype, tuple(value.shape)) for name, value in state.items()} == {
        "loss": (torch.float64, ()),
        "top5": (torch.int64, ()),
        "class_correct": (torch.int64, (classes,)),
        "class_samples": (torch.int64, (classes,)),
    }
    restored = TrainingAccumulator(classes, CPU)
    restored.update(torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64), torch.tensor(5.0))
    restored.load_state_dict(state)
    assert restored.state_dict().keys() == state.keys()
    assert all(torch.equal(restored.state_dict()[name], value) for name, value in state.items())


def test_a_batch_of_a_skipped_step_is_not_counted():
    accumulator = TrainingAccumulator(3, CPU)
    for loss, counted in ((math.inf, False), (6.0, True)):
        accumulator.update(torch.eye(3), torch.tensor([0, 1, 1]), torch.tensor(loss), torch.tensor(counted))
    result = accumulator.result()
    assert (result.class_samples, result.class_correct) == ((1, 2, 0), (1, 1, 0))
    assert (result.loss, result.top5) == (2, 1)


@pytest.mark.parametrize(("counted", "operations"), [(None, 6), (torch.tensor(True), 9)])
def test_a_batch_is_added_by_few_operations(counted, operations):
    accumulator, counter = TrainingAccumulator(10, CPU), KernelCounter()
    logits, labels, loss = torch.rand(4, 10), torch.arange(4), torch.tensor(1.0)
    with counter, counter.part("count"):
        accumulator.update(logits, labels, loss, counted)
    assert counter.kernels["count"] <= operations
