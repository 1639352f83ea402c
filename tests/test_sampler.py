"""Random numbers, the order of an epoch, and the ranks' slices of it."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from thoroughness import examples

from data.errors import DataError
from data.rng import Purpose, hashes, integers
from data.sampler import (
    BLOCK,
    BatchSampler,
    epoch_order,
    global_batch,
    rank_batch,
    rank_slice,
    steps_per_epoch,
    trainable_steps,
)
from regnet.config.parser import parse_config
from regnet.errors import UsageError

WORD = 2**64
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10_000)
world_sizes = pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])


def splitmix64(state):
    """One output of the generator from its previous state, in plain big integers."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def slow_hash(seed, epoch, purpose, sample):
    key = 0
    for part in (seed, epoch, int(purpose)):
        key = splitmix64(key ^ part)
    return splitmix64(key ^ splitmix64(sample))


def test_slow_splitmix64_gives_the_published_outputs():
    # The first three outputs of the authors' program for state 0.
    states = [0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % WORD]
    assert [splitmix64(state) for state in states] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(seeds, epochs, st.sampled_from(Purpose), st.lists(seeds, max_size=20))
@examples(100)
def test_hashes_agree_with_big_integers(seed, epoch, purpose, ids):
    found = hashes(seed, epoch, purpose, torch.tensor(ids, dtype=torch.int64))
    assert [number % WORD for number in found.tolist()] == [slow_hash(seed, epoch, purpose, sample) for sample in ids]


@given(seeds, epochs, st.sampled_from(Purpose), st.lists(seeds, max_size=20), st.integers(1, 2**31))
@examples(100)
def test_integers_are_within_the_bound_and_agree_with_big_integers(seed, epoch, purpose, ids, bound):
    found = integers(seed, epoch, purpose, torch.tensor(ids, dtype=torch.int64), bound).tolist()
    assert all(0 <= number < bound for number in found)
    assert found == [slow_hash(seed, epoch, purpose, sample) // 2 % bound for sample in ids]


@pytest.mark.parametrize("bound", [2, 3, 9, 32, 100, 1000])
@pytest.mark.parametrize("purpose", Purpose)
def test_integers_are_uniform(purpose, bound):
    numbers = integers(3, 5, purpose, torch.arange(100_000), bound).numpy()
    expected = 100_000 / bound
    chi_square = ((np.bincount(numbers, minlength=bound) - expected) ** 2 / expected).sum()
    freedom = bound - 1
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_numbers_of_other_purposes_epochs_seeds_and_neighbours_are_uncorrelated():
    ids = torch.arange(100_000)
    keys = [(0, 0, purpose) for purpose in Purpose] + [(0, 1, Purpose.flip), (1, 0, Purpose.flip), (1, 1, Purpose.flip)]
    numbers = [hashes(*key, ids) for key in keys] + [hashes(0, 0, Purpose.flip, ids + 1)]
    correlation = np.corrcoef(torch.stack(numbers).double().numpy())
    assert abs(correlation - np.eye(len(numbers))).max() < 0.02


@pytest.mark.parametrize("seed", [2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64])
def test_every_seed_that_the_configuration_accepts_can_be_used(seed):
    try:
        config = parse_config([f"--seed={seed}"])
    except UsageError:
        return
    torch.Generator().manual_seed(config.seed)
    assert len(epoch_order(5, config.seed, 0)) == 5


@given(st.integers(0, 500), seeds, epochs)
@examples(100)
def test_epoch_order_is_a_permutation(samples, seed, epoch):
    order = epoch_order(samples, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(samples))


@given(st.integers(50, 500), st.integers(0, 2**62), st.integers(1, 1000))
@examples(100)
def test_order_depends_on_seed_and_on_epoch(samples, seed, epoch):
    order = epoch_order(samples, seed, epoch)
    assert torch.equal(order, epoch_order(samples, seed, epoch))
    for other in ((seed, epoch + 1), (seed + 1, epoch), (seed + 1, epoch - 1)):
        assert not torch.equal(order, epoch_order(samples, *other))


@given(st.integers(0, 2000), st.integers(1, 700), seeds, epochs)
@examples(100)
def test_a_window_holds_few_runs_and_all_windows_together_hold_every_sample(samples, window, seed, epoch):
    order = epoch_order(samples, seed, epoch, window)
    assert sorted(order.tolist()) == list(range(samples))
    for part in order.split(window):
        # Two runs that it shares with other windows, and the last run, which may be short.
        assert len((part // BLOCK).unique()) <= window / BLOCK + 3
    assert torch.equal(order, epoch_order(samples, seed, epoch, window))


def test_windows_are_shuffled_and_consist_of_other_runs_in_every_epoch():
    first, second = (epoch_order(2000, 3, epoch, 256) for epoch in (0, 1))
    assert set((first[:256] // BLOCK).tolist()) != set((second[:256] // BLOCK).tolist())
    neighbours = ((first[1:] - first[:-1]) == 1).sum()
    assert neighbours < 40, "hardly any samples are still neighbours"


def test_every_sample_is_equally_likely_at_every_position():
    orders = torch.stack([epoch_order(10, seed=0, epoch=epoch) for epoch in range(5000)])
    counts = torch.stack([orders[:, position].bincount(minlength=10) for position in range(10)])
    assert (counts - 500).abs().max() < 5 * 500**0.5


@world_sizes
@given(st.integers(1, 300), st.integers(1, 80), seeds)
@examples(30)
def test_the_ranks_slices_of_a_step_are_the_global_batch(world_size, samples, batch_size, seed):
    order = epoch_order(samples, seed, 0)
    for step in range(steps_per_epoch(samples, batch_size, drop_last=False)):
        parts = [rank_batch(order, step, batch_size, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat(parts), order[step * batch_size : (step + 1) * batch_size])
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@world_sizes
@given(st.integers(1, 300), st.integers(1, 80), seeds)
@examples(30)
def test_every_sample_is_seen_exactly_once_per_epoch(world_size, samples, batch_size, seed):
    order = epoch_order(samples, seed, 0)
    steps = steps_per_epoch(samples, batch_size, drop_last=False)
    seen = [
        rank_batch(order, step, batch_size, rank, world_size) for rank in range(world_size) for step in range(steps)
    ]
    assert sorted(torch.cat(seen).tolist()) == list(range(samples))


@given(st.integers(0, 300), st.integers(1, 80))
@example(60, 20)
@examples(100)
def test_dropping_the_last_batch_keeps_full_batches(samples, batch_size):
    order = epoch_order(samples, 0, 0)
    sizes = [len(global_batch(order, step, batch_size)) for step in range(steps_per_epoch(samples, batch_size, False))]
    assert sum(sizes) == samples
    assert all(sizes)
    full = sizes[:-1] if sizes and sizes[-1] < batch_size else sizes
    assert full == [batch_size] * steps_per_epoch(samples, batch_size, drop_last=True)


@given(st.integers(0, 1000), st.integers(1, 50))
@examples(100)
def test_slices_cover_every_item_once_and_their_sizes_differ_by_one_at_most(length, world_size):
    parts = [list(range(length))[rank_slice(length, rank, world_size)] for rank in range(world_size)]
    assert [item for part in parts for item in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_sampler_gives_the_batches_of_its_order():
    sampler = BatchSampler(samples=1000, batch_size=96, drop_last=False, shuffle_window=128, seed=3)
    order = epoch_order(1000, 3, 2, 128)
    assert sampler.steps(2) == 11
    for step, batch in zip((4, 10), sampler.rank_batches(2, (4, 10), 1, 2), strict=True):
        assert torch.equal(batch, rank_batch(order, step, 96, 1, 2))
    assert [sampler.global_size(step) for step in (0, 9, 10)] == [96, 96, 40]


@pytest.mark.parametrize(
    ("samples", "batch_size", "drop_last", "world_size", "message"),
    [
        (10, 20, True, 1, "10 training images do not fill one batch of 20: use a smaller train.batch_size"),
        (21, 20, False, 1, "the last of 2 batches has 1 of 21 training images, but BatchNorm needs 2 in a batch"),
        (20, 1, False, 1, "train.batch_size is 1, but BatchNorm needs 2 in a batch: use at least 2$"),
        (20, 3, True, 2, "train.batch_size is 3, .* 2 for each of 2 processes .*: use at least 4 or fewer processes"),
        (1, 1, False, 1, "there are 1 training images, but BatchNorm needs 2 in a batch: use more images"),
        (43, 20, False, 2, "the last of 3 batches has 3 of 43 training images, but BatchNorm needs 2 for each of 2"),
    ],
)
def test_batches_that_cannot_be_trained_are_one_line_errors(samples, batch_size, drop_last, world_size, message):
    with pytest.raises(DataError, match=message):
        trainable_steps(samples, batch_size, drop_last, world_size)


@pytest.mark.parametrize(
    ("samples", "batch_size", "drop_last", "world_size", "steps"),
    [(2, 2, False, 1, 1), (2, 2, True, 1, 1), (6, 6, False, 3, 1), (10, 4, False, 1, 3), (16, 6, False, 2, 3)],
)
def test_two_samples_for_each_process_are_enough_in_every_batch(samples, batch_size, drop_last, world_size, steps):
    assert trainable_steps(samples, batch_size, drop_last, world_size) == steps
    sampler = BatchSampler(samples, batch_size, drop_last, shuffle_window=0, seed=0)
    assert sampler.steps(world_size) == steps


def test_a_batch_sampler_drops_the_last_batch_only_if_asked_to():
    for drop_last, steps in ((True, 10), (False, 11)):
        assert BatchSampler(1000, 96, drop_last, shuffle_window=0, seed=0).steps(2) == steps


def test_numbers_and_orders_are_those_of_every_version():
    """Or a run would not continue, and could not be repeated, after an update."""
    numbers = [integers(3, 2, purpose, torch.tensor([5]), 1000).item() for purpose in Purpose]
    assert numbers[:10] == [270, 718, 447, 295, 248, 292, 154, 210, 607, 898]
    assert numbers[10:19] == [42, 599, 736, 510, 792, 700, 533, 814, 59]
    assert epoch_order(300, 3, 2)[:8].tolist() == [111, 95, 42, 287, 275, 215, 166, 256]
    assert epoch_order(300, 3, 2, window=128)[:8].tolist() == [111, 95, 215, 112, 204, 89, 237, 199]
