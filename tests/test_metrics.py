import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regnet.distributed.world import World
from regnet.metrics.training import TrainingAccumulator

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, local_rank=0, device=CPU, control=None, heartbeat=None)


@st.composite
def samples(draw):
    """Logits without ties (n, classes), labels (n,)."""
    classes, count = draw(st.integers(1, 9)), draw(st.integers(0, 20))
    rows = [draw(st.permutations(range(classes))) for _ in range(count)]
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return torch.tensor(rows, dtype=torch.float32).view(count, classes) / 3, torch.tensor(labels, dtype=torch.int64)


def count(logits, labels):
    counters = TrainingAccumulator(logits.shape[1], CPU)
    counters.update(logits, labels, F.cross_entropy(logits, labels, reduction="sum"))
    return counters


def rank_of_label(row, label):
    """How many classes come before the label's."""
    return sum(logit > row[label] for logit in row)


def integer_counts(result):
    return result.samples, result.class_correct, result.class_samples


@given(samples())
@settings(deadline=None, max_examples=80)
def test_counters_agree_with_one_sample_after_the_other(batch):
    logits, labels = batch
    result = count(logits, labels).result()
    rows = list(zip(logits.tolist(), labels.tolist(), strict=True))
    ranks = [rank_of_label(row, label) for row, label in rows]
    losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in rows]
    for found, expected in (
        (result.loss, sum(losses)),
        (result.top1, sum(rank < 1 for rank in ranks)),
        (result.top5, sum(rank < 5 for rank in ranks)),
    ):
        assert found == pytest.approx(expected / len(rows) if rows else math.nan, rel=1e-5, abs=1e-6, nan_ok=True)
    for label in range(logits.shape[1]):
        own = [rank for rank, (_, other) in zip(ranks, rows, strict=True) if other == label]
        assert result.class_samples[label] == len(own)
        assert result.class_correct[label] == own.count(0)
        expected = own.count(0) / len(own) if own else math.nan
        assert result.class_accuracy[label] == pytest.approx(expected, nan_ok=True)
    assert result.samples == len(rows)


@pytest.mark.parametrize("samples", [1, 7, 49, 10_000])
def test_a_perfect_score_is_exactly_one(samples):
    labels = torch.arange(samples) % 3
    result = count(F.one_hot(labels, 3).float(), labels).result()
    assert (result.top1, result.top5) == (1, 1)


@given(samples(), st.lists(st.integers(0, 20), max_size=5))
@settings(deadline=None, max_examples=80)
def test_counts_are_the_same_however_samples_are_spread_over_batches(batch, cuts):
    logits, labels = batch
    whole = count(logits, labels).result()
    parts = TrainingAccumulator(logits.shape[1], CPU)
    for rows, truth in zip(logits.tensor_split(sorted(cuts)), labels.tensor_split(sorted(cuts)), strict=True):
        parts.update(rows, truth, F.cross_entropy(rows, truth, reduction="sum"))
    split = parts.result()
    assert integer_counts(split) == integer_counts(whole)
    assert split.top5 == pytest.approx(whole.top5, rel=0, abs=0, nan_ok=True)
    assert split.loss == pytest.approx(whole.loss, rel=1e-5, abs=1e-6, nan_ok=True)


@given(samples())
@settings(deadline=None, max_examples=30)
def test_the_sum_over_one_process_and_a_restored_state_are_the_same_counters(batch):
    counters = count(*batch)
    restored = TrainingAccumulator(batch[0].shape[1], CPU)
    restored.load_state_dict(counters.state_dict())
    for other in (restored, counters.summed(ALONE)):
        assert integer_counts(other.result()) == integer_counts(counters.result())
        assert other.result().loss == pytest.approx(counters.result().loss, nan_ok=True)


def test_summing_leaves_the_counters_as_they_were():
    counters = count(torch.eye(3), torch.arange(3))
    total = counters.summed(ALONE)
    total.update(torch.eye(3), torch.arange(3), torch.tensor(0.0))
    assert counters.result().samples == 3
    assert total.result().samples == 6


def test_no_samples_give_no_numbers_and_no_error():
    result = TrainingAccumulator(4, CPU).result()
    assert result.samples == 0
    assert all(math.isnan(value) for value in (result.loss, result.top1, result.top5, *result.class_accuracy))


def test_a_million_small_losses_do_not_get_lost():
    counters = TrainingAccumulator(2, CPU)
    counters.update(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.tensor(1e8))
    for _ in range(1000):
        counters.update(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.tensor(1.0))
    assert counters.result().loss * 1001 == pytest.approx(1e8 + 1000, rel=1e-9)
