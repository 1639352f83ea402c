"""Mixup and CutMix: the pixels that a sample keeps, and its target in proportion."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples

from data.augment.mixup_cutmix import MixupCutmix
from data.rng import UNIFORM, Column, Purpose, random_table

SIDE, CLASSES, SAMPLES = 16, 10, 4000


def mixup_cutmix(mixup_prob=0.0, cutmix_prob=0.0):
    return MixupCutmix(mixup_prob, cutmix_prob, SAMPLES, CLASSES)


def mix(transform, images, labels, ids, epoch, seed=1):
    return transform.mix(images, labels, random_table(seed, epoch, transform.columns, ids))


def mix_ones_with_zeros(transform, ids, epoch=0, side=SIDE, seed=1):
    """Mixes samples of ones and class 3 with partners of zeros and class 7: the weights, and targets."""
    images = torch.ones(2 * len(ids), 3, side, side)
    images[len(ids) :] = 0
    labels = torch.tensor([3, 7]).repeat_interleave(len(ids))
    return mix(transform, images, labels, ids, epoch, seed)


@given(mixup_prob=st.floats(0, 1), rest=st.floats(0, 1), seed=st.integers(0, 2**62), epoch=st.integers(0, 500))
@examples(40)
def test_targets_are_in_proportion_to_the_pixels(mixup_prob, rest, seed, epoch):
    transform = mixup_cutmix(mixup_prob, (1 - mixup_prob) * rest)
    weights, targets = mix_ones_with_zeros(transform, torch.arange(200), epoch, seed=seed)
    torch.testing.assert_close(targets[:, 3], weights.mean((1, 2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(targets[:, 7], 1 - targets[:, 3], rtol=0, atol=1e-6)
    assert (targets.sum(1) - 1).abs().max() < 1e-6
    assert targets.count_nonzero() <= 2 * len(targets)


def test_mixup_blends_all_pixels_with_one_uniform_lambda():
    weights, _ = mix_ones_with_zeros(mixup_cutmix(mixup_prob=1), torch.arange(SAMPLES))
    lambdas = weights[:, 0, 0, 0]
    assert torch.equal(weights, lambdas.view(-1, 1, 1, 1).expand_as(weights))
    # Uniform: mean 1/2, variance 1/12, and half of them between the quartiles.
    assert abs(lambdas.mean() - 0.5) < 0.02
    assert abs(lambdas.var() - 1 / 12) < 0.005
    assert abs(((lambdas > 0.25) & (lambdas < 0.75)).float().mean() - 0.5) < 0.03


def test_cutmix_pastes_one_rectangle():
    weights, _ = mix_ones_with_zeros(mixup_cutmix(cutmix_prob=1), torch.arange(SAMPLES), side=32)
    assert set(weights.unique().tolist()) <= {0.0, 1.0}
    holes = weights[:, 0] == 0
    for hole in holes[:300]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows.unsqueeze(1) & columns.unsqueeze(0))
        for line in (rows, columns):
            assert line.int().diff().abs().sum() <= 2, "contiguous"
    # The centre is uniform, so on average the pasted area is symmetric.
    frequency = holes.float().mean(0)
    torch.testing.assert_close(frequency, frequency.flip(0), rtol=0, atol=0.06)
    torch.testing.assert_close(frequency, frequency.flip(1), rtol=0, atol=0.06)
    # Of a side h, h^2/4 lies beyond the edges on average; h^2 is uniform: E[(h - h^2/4)^2] = 1/2 - 1/5 + 1/48.
    assert abs(holes.float().mean() - 0.3208) < 0.02


def test_the_probabilities_of_mixup_and_cutmix_are_those_given():
    weights, _ = mix_ones_with_zeros(mixup_cutmix(mixup_prob=0.2, cutmix_prob=0.5), torch.arange(SAMPLES), side=32)
    blended = (weights[:, 0, 0, 0] > 0) & (weights[:, 0, 0, 0] < 1)
    unmixed = (weights == 1).all(3).all(2).all(1)
    assert abs(blended.float().mean() - 0.2) < 0.03
    assert 0.27 < unmixed.float().mean() < 0.36, "including a few whose rectangle is smaller than a pixel"


def test_partners_are_uniform_over_all_samples_and_differ_between_epochs():
    first, second = (mixup_cutmix(mixup_prob=1).partners(1, epoch, torch.arange(SAMPLES)) for epoch in (0, 1))
    assert first.min() >= 0
    assert first.max() < SAMPLES
    assert 0.6 < len(first.unique()) / SAMPLES < 0.66, "1 - 1/e of them, chosen independently"
    assert (first == second).float().mean() < 0.01
    assert (first == torch.arange(SAMPLES)).float().mean() < 0.01


@pytest.mark.parametrize("side", [15, 32, 56])
def test_a_mixed_sample_is_bit_identical_in_any_batch(side):
    ids = torch.arange(50, 80)
    images = torch.randn(60, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(60) % CLASSES
    transform = mixup_cutmix(0.4, 0.4)
    batch = mix(transform, images, labels, ids, 5)
    for row in range(30):
        pair = torch.tensor([row, 30 + row])
        alone = mix(transform, images[pair], labels[pair], ids[row : row + 1], 5)
        assert all(torch.equal(one, several[row : row + 1]) for one, several in zip(alone, batch, strict=True))


def random_numbers_of(kind, lambda_, row, column):
    """Random numbers of one sample, given as fractions of their range."""
    return (UNIFORM * torch.tensor([[kind, lambda_, row, column]], dtype=torch.float64)).long()


def weights_of(transform, random_numbers):
    images = torch.cat([torch.ones(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE)])
    return transform.mix(images, torch.zeros(2, dtype=torch.int64), random_numbers)[0][0, 0]


fractions = st.integers(0, UNIFORM - 1).map(lambda number: number / UNIFORM)


@given(lambda_=fractions, row=fractions, column=fractions)
def test_a_pixel_is_pasted_if_its_centre_is_in_the_rectangle(lambda_, row, column):
    """The rectangle has the area 1 - lambda, in units of the image."""
    found = weights_of(mixup_cutmix(cutmix_prob=1), random_numbers_of(0.5, lambda_, row, column))
    half = math.sqrt(1 - lambda_) / 2
    for y in range(SIDE):
        for x in range(SIDE):
            inside = max(abs((y + 0.5) / SIDE - row), abs((x + 0.5) / SIDE - column)) - half
            if abs(inside) > 1e-6:
                assert found[y, x] == (inside > 0)


@pytest.mark.parametrize(
    ("kind", "mixup_prob", "cutmix_prob", "effect"),
    [
        (0, 0, 1, "pasted"),
        (0, 0, 0, "unmixed"),
        (0.25 - 1 / UNIFORM, 0.25, 0.5, "blended"),
        (0.25, 0.25, 0.5, "pasted"),
        (0.75 - 1 / UNIFORM, 0.25, 0.5, "pasted"),
        (0.75, 0.25, 0.5, "unmixed"),
        (1 - 1 / UNIFORM, 0, 1, "pasted"),
        (1 - 1 / UNIFORM, 1, 0, "blended"),
    ],
)
def test_probabilities_of_zero_and_one_mean_never_and_always(kind, mixup_prob, cutmix_prob, effect):
    found = weights_of(mixup_cutmix(mixup_prob, cutmix_prob), random_numbers_of(kind, 0.75, 0.5, 0.5))
    values = {"unmixed": [1.0], "blended": [0.75], "pasted": [0.0, 1.0]}[effect]
    assert found.unique().tolist() == values


def test_each_number_has_its_own_purpose_and_is_uniform():
    purposes = [Purpose.mix_kind, Purpose.mix_lambda, Purpose.mix_row, Purpose.mix_column]
    assert MixupCutmix.columns == tuple(Column(purpose, UNIFORM) for purpose in purposes)
