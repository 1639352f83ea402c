"""The size of evaluation batches, and that every validation sample is read once whatever it is."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.loader import EvaluationLoader, RankInfo, largest_part
from data.open_loaders import evaluation_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
counts = st.integers(1, 5000)


@given(counts, st.integers(8, 600), counts, st.integers(1, 300), st.booleans())
def test_an_evaluation_batch_is_a_part_of_a_training_batch_or_more_on_a_gpu(batch, side, samples, world, on_gpu):
    size = evaluation_batch(batch, side, samples, RankInfo(0, world, CUDA if on_gpu else CPU))
    own, part = largest_part(samples, world), largest_part(batch, world)
    assert min(part, own) <= size <= own
    if size > part:
        assert on_gpu
        assert size <= 1000
        assert size * side**2 <= 1000 * 56**2


@pytest.mark.parametrize(("side", "size"), [(32, 1000), (56, 1000), (112, 250), (224, 62), (448, 32)])
def test_large_images_are_evaluated_in_smaller_batches(side, size):
    assert evaluation_batch(256, side, 50_000, RankInfo(3, 8, CUDA)) == size


class Reader:
    """Returns ids as labels."""

    def read(self, split, batches, boxes=None):
        assert split == "val"
        for ids in batches:
            yield ids, ids, ids


@given(st.integers(1, 200), st.integers(1, 250), st.integers(1, 12), st.integers(1, 300))
def test_every_sample_is_read_once_over_all_ranks(samples, batch, world, train_batch):
    size = min(batch, evaluation_batch(train_batch, 8, samples, RankInfo(0, world, CPU)))
    loaders = [
        EvaluationLoader(Reader(), lambda stored: stored, None, samples, size, RankInfo(rank, world, CPU))
        for rank in range(world)
    ]
    batches = [list(loader) for loader in loaders]
    assert Counter(torch.cat([part.labels for rank in batches for part in rank]).tolist()) == Counter(range(samples))
    assert max(len(part.labels) for rank in batches for part in rank) <= size
    assert {loader.steps for loader in loaders} == {max(map(len, batches))}
