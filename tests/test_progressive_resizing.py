"""Progressive resizing: the side of the training images in each epoch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loading import CROPPED, LOADER_OPTIONS, MIXED, assert_batches_equal, images_and_targets, loaders

from data.augment.progressive_resizing import ProgressiveResizing
from data.sampler import epoch_order


@pytest.mark.thorough
def test_crops_differ_between_epochs_and_have_the_side_of_progressive_resizing(shards):
    resizing = {"progressive_resizing_epochs": 3, "initial_resolution": 24, "resolution": 32}
    train, val = loaders(shards, **CROPPED | resizing)
    sides = [next(train.epoch(epoch)).images.shape[2] for epoch in range(4)]
    assert sides == [24, 24, 28, 32]
    cropped, whole = (next(iter(loader)).images for loader in (val, loaders(shards, resolution=32)[1]))
    assert cropped.shape == whole.shape
    assert not torch.equal(cropped, whole)
    no_other = {"flip": False, "randaugment_num_ops": 0, "cutout_size": 0}
    train, _ = loaders(shards, **CROPPED | no_other)
    by_id = []
    for epoch in (0, 1):
        images = torch.cat([batch.images for batch in train.epoch(epoch)])
        by_id.append(images[epoch_order(1000, LOADER_OPTIONS.seed, epoch, CROPPED["shuffle_window"]).argsort()])
    assert (by_id[0] != by_id[1]).flatten(1).any(1).float().mean() > 0.9


def test_the_pipeline_is_captured_once_per_image_side(shards):
    """Random numbers are arguments of the captured function: one capture serves all epochs of a side."""
    captured = []

    def capture(function):
        def replay(*arguments):
            captured[position][1] += 1
            return function(*arguments)

        position = len(captured)
        captured.append([function, 0])
        return replay

    resizing = {"progressive_resizing_epochs": 2, "initial_resolution": 32}
    plain, _ = loaders(shards, **MIXED | resizing)
    train, _ = loaders(shards, **MIXED | resizing)
    assert train.capture is None
    train.capture = capture
    for epoch in range(4):
        assert_batches_equal(images_and_targets(train.epoch(epoch, 9)), images_and_targets(plain.epoch(epoch, 9)))
    assert [calls for _, calls in captured] == [2, 2, 4], "two steps of the sides 32, 36, 40 and 40"


def test_progressive_resizing_changes_training_images_only(shards):
    train, val = loaders(shards, progressive_resizing_epochs=2)
    for epoch, side in enumerate([24, 32, 40, 40]):
        assert next(train.epoch(epoch)).images.shape[2:] == (side, side)
        assert next(iter(val)).images.shape[2:] == (40, 40)
    constant, _ = loaders(shards)
    assert_batches_equal(images_and_targets(train.epoch(2)), images_and_targets(constant.epoch(2)))


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 40))
def test_sides_grow_linearly_in_steps_to_the_final_side(initial, difference, epochs):
    resizing = ProgressiveResizing(initial, initial + difference, epochs)
    sides = [resizing.side(epoch) for epoch in range(epochs + 3)]
    assert sides == sorted(sides)
    assert sides[0] == initial
    assert sides[epochs:] == [initial + difference] * 3
    assert all((side - initial) % 4 == 0 for side in sides[:epochs])
    linear = [initial + difference * epoch / epochs for epoch in range(epochs)]
    assert all(0 <= exact - side < 4 + 1e-6 for exact, side in zip(linear, sides, strict=False))
