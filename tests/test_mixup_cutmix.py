"""Mixup and CutMix: what a sample keeps of itself, and what its target says of that."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.mixup_cutmix import MixupCutmix

SIDE, CLASSES, SAMPLES = 16, 10, 4000


def mix(mixup=0.0, cutmix=0.0, seed=1):
    return MixupCutmix(mixup, cutmix, SAMPLES, CLASSES, seed)


def black_among_white(mixed, ids, epoch=0, side=SIDE):
    """What each sample, all ones of class 3, keeps of itself among zeros of class 7: its pixels and targets."""
    images = torch.ones(2 * len(ids), 3, side, side)
    images[len(ids) :] = 0
    labels = torch.tensor([3, 7]).repeat_interleave(len(ids))
    return mixed.mixed(images, labels, ids, epoch)


@given(mixup=st.floats(0, 1), left=st.floats(0, 1), seed=st.integers(0, 2**62), epoch=st.integers(0, 500))
@settings(deadline=None, max_examples=40)
def test_targets_are_the_shares_of_the_image(mixup, left, seed, epoch):
    kept, targets = black_among_white(mix(mixup, (1 - mixup) * left, seed), torch.arange(200), epoch)
    torch.testing.assert_close(targets[:, 3], kept.mean((1, 2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(targets[:, 7], 1 - targets[:, 3], rtol=0, atol=1e-6)
    assert (targets.sum(1) - 1).abs().max() < 1e-6
    assert targets.count_nonzero() <= 2 * len(targets)


def test_mixup_blends_all_pixels_alike():
    kept, _ = black_among_white(mix(mixup=1), torch.arange(SAMPLES))
    shares = kept[:, 0, 0, 0]
    assert torch.equal(kept, shares.view(-1, 1, 1, 1).expand_as(kept))
    # Uniform: mean 1/2, variance 1/12, and half of them on each side of the quarter points.
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / 12) < 0.005
    assert abs(((shares > 0.25) & (shares < 0.75)).float().mean() - 0.5) < 0.03


def test_cutmix_puts_one_rectangle_in():
    kept, _ = black_among_white(mix(cutmix=1), torch.arange(SAMPLES), side=32)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    holes = kept[:, 0] == 0
    for hole in holes[:300]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows.unsqueeze(1) & columns.unsqueeze(0))
        for line in (rows, columns):
            assert line.int().diff().abs().sum() <= 2, "in one piece"
    # The centre is anywhere, so on average as much is cut in each place by mirrored draws.
    share = holes.float().mean(0)
    torch.testing.assert_close(share, share.flip(0), rtol=0, atol=0.06)
    torch.testing.assert_close(share, share.flip(1), rtol=0, atol=0.06)
    # Of a side h a part h^2/4 is beyond the edges on average; h^2 is uniform: E[(h - h^2/4)^2] = 1/2 - 1/5 + 1/48.
    assert abs(holes.float().mean() - 0.3208) < 0.02


def test_as_many_samples_are_mixed_as_asked():
    kept, _ = black_among_white(mix(mixup=0.2, cutmix=0.5), torch.arange(SAMPLES), side=32)
    blended = (kept[:, 0, 0, 0] > 0) & (kept[:, 0, 0, 0] < 1)
    whole = (kept == 1).all(3).all(2).all(1)
    assert abs(blended.float().mean() - 0.2) < 0.03
    assert 0.27 < whole.float().mean() < 0.36, "and a few whose rectangle is smaller than a pixel"


def test_partners_are_any_samples_and_others_in_each_epoch():
    first, second = (mix(mixup=1).partners(torch.arange(SAMPLES), epoch) for epoch in (0, 1))
    assert first.min() >= 0
    assert first.max() < SAMPLES
    assert 0.6 < len(first.unique()) / SAMPLES < 0.66, "1 - 1/e of them, drawn one by one"
    assert (first == second).float().mean() < 0.01
    assert (first == torch.arange(SAMPLES)).float().mean() < 0.01


@pytest.mark.parametrize("side", [15, 32, 56])
def test_a_sample_is_the_same_to_the_bit_in_whatever_batch_it_comes(side):
    ids = torch.arange(50, 80)
    images = torch.randn(60, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(60) % CLASSES
    mixed = mix(0.4, 0.4)
    whole = mixed.mixed(images, labels, ids, 5)
    for place in range(30):
        alone = torch.tensor([place, 30 + place])
        found = mixed.mixed(images[alone], labels[alone], ids[place : place + 1], 5)
        assert all(torch.equal(one, several[place : place + 1]) for one, several in zip(found, whole, strict=True))
