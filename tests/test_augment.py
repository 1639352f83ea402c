"""Image transforms of stored bytes, and resizing and normalisation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples
from torch.nn import functional as F

from data.augment.image_transforms import ImageTransforms
from data.augment.resize_normalize import ResizeNormalize
from data.rng import Purpose, integers, random_table
from regnet.config.schema import AugmentConfig

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
MEAN_COLOUR = (128, 102, 76)  # 255 times the mean; 127.5 and 76.5 are ties, rounded to even
SEED = 7
SIDE = 12
CPU = torch.device("cpu")
NO_AUGMENTATION = AugmentConfig(flip=False, crop_padding=0)


def transforms(seed=SEED, **options):
    """A function of images (N, H, H, 3), their ids and the epoch."""

    def transform(images, ids, epoch):
        enabled = ImageTransforms(replace(NO_AUGMENTATION, **options), MEAN, images.shape[1], CPU)
        return enabled(images, random_table(seed, epoch, enabled.columns, ids))

    return transform


def augmented(images, ids, epoch, resolution=SIDE, **options):
    """Transformed, resized and normalised."""
    return ResizeNormalize(MEAN, STD, resolution, CPU)(transforms(**options)(images, ids, epoch))


def random_images(count, side=SIDE):
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def levels(normalised):
    """The 0 to 255 of every pixel, float (N, H, W, 3), of normalised images."""
    return 255 * (normalised.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN))


def stored_bytes(normalised):
    found = levels(normalised)
    torch.testing.assert_close(found, found.round(), rtol=0, atol=1e-3)
    return found.round().to(torch.uint8).numpy()


def random_integer(purpose, sample, epoch, bound):
    return int(integers(SEED, epoch, purpose, torch.tensor([sample]), bound))


def slow_training_image(image, sample, epoch, flip, crop_padding, cutout_size):
    """The transformed image of one sample, computed pixel by pixel: uint8 (SIDE, SIDE, 3)."""
    offsets = 2 * crop_padding + 1
    top = random_integer(Purpose.crop_row, sample, epoch, offsets) - crop_padding
    left = random_integer(Purpose.crop_column, sample, epoch, offsets) - crop_padding
    flipped = flip and random_integer(Purpose.flip, sample, epoch, 2)
    hole_top = random_integer(Purpose.cutout_row, sample, epoch, SIDE) - cutout_size // 2
    hole_left = random_integer(Purpose.cutout_column, sample, epoch, SIDE) - cutout_size // 2
    result = np.zeros((SIDE, SIDE, 3), np.uint8)
    for y in range(SIDE):
        for x in range(SIDE):
            row, column = top + y, left + (SIDE - 1 - x if flipped else x)
            if 0 <= row < SIDE and 0 <= column < SIDE:
                result[y, x] = image[row, column]
            if hole_top <= y < hole_top + cutout_size and hole_left <= x < hole_left + cutout_size:
                result[y, x] = MEAN_COLOUR
    return result


@given(
    flip=st.booleans(),
    crop_padding=st.integers(0, SIDE + 2),
    cutout_size=st.integers(0, 2 * SIDE),
    first_id=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
)
@examples(40)
def test_transforms_agree_with_a_pixel_by_pixel_implementation(flip, crop_padding, cutout_size, first_id, epoch):
    images, ids = random_images(4), torch.arange(first_id, first_id + 4)
    found = augmented(images, ids, epoch, flip=flip, crop_padding=crop_padding, cutout_size=cutout_size)
    slow = [
        slow_training_image(image, sample, epoch, flip, crop_padding, cutout_size)
        for image, sample in zip(images.numpy(), ids.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(stored_bytes(found), np.stack(slow))


@given(
    order=st.permutations(range(12)),
    splits=st.lists(st.integers(1, 11), max_size=11, unique=True),
    resolution=st.sampled_from([SIDE, SIDE + 9, 2 * SIDE, SIDE - 5]),
    options=st.fixed_dictionaries(
        {
            "flip": st.booleans(),
            "crop_padding": st.integers(0, 4),
            "cutout_size": st.integers(0, 8),
            "randaugment_num_ops": st.integers(0, 2),
        }
    ),
)
@examples(60)
def test_a_sample_is_bit_identical_in_any_batch(order, splits, resolution, options):
    images, ids = random_images(12), torch.arange(100, 112)
    augment, normalize = transforms(**options), ResizeNormalize(MEAN, STD, resolution, CPU)
    order = torch.tensor(order)
    batches = order.tensor_split(sorted(splits))
    trained = torch.cat([normalize(augment(images[batch], ids[batch], 3)) for batch in batches])
    assert torch.equal(trained, normalize(augment(images, ids, 3))[order])
    evaluated = torch.cat([normalize(images[batch]) for batch in batches])
    assert torch.equal(evaluated, normalize(images)[order])


@pytest.mark.parametrize("resolution", [32, 56])
def test_a_32_pixel_image_is_bit_identical_alone_and_in_a_batch(resolution):
    images, ids = random_images(50, side=32), torch.arange(50)
    options = {"flip": True, "crop_padding": 4, "cutout_size": 8, "randaugment_num_ops": 2}
    batch = augmented(images, ids, 0, resolution, **options)
    for sample in range(50):
        alone = slice(sample, sample + 1)
        assert torch.equal(augmented(images[alone], ids[alone], 0, resolution, **options), batch[alone])


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_is_an_exact_square_of_the_mean_colour(size):
    images = torch.full((300, SIDE, SIDE, 3), 200, dtype=torch.uint8)
    found = stored_bytes(augmented(images, torch.arange(300), 0, cutout_size=size))
    areas = set()
    for image in found:
        hole = (image == MEAN_COLOUR).all(axis=2)
        assert (image[~hole] == 200).all()
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert max(len(rows), len(columns)) <= size
        areas.add(hole.sum())
    # The centre is in the image, so an edge may hide a part of the square, but never all of it.
    assert max(areas) == size**2
    assert min(areas) >= max(1, (size // 2) ** 2)


def test_every_offset_of_crop_and_flip_occurs():
    image = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    image[0, 5, 6] = 255
    found = augmented(image.expand(600, -1, -1, -1), torch.arange(600), 0, flip=True, crop_padding=1)
    positions = {tuple(position) for position in np.argwhere(stored_bytes(found)[..., 0])[:, 1:]}
    flipped = {SIDE - 1 - column for column in (5, 6, 7)}
    assert positions == {(row, column) for row in (4, 5, 6) for column in {5, 6, 7} | flipped}


def test_normalisation_agrees_with_its_definition():
    images = random_images(9)
    expected = (images.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    found = ResizeNormalize(MEAN, STD, SIDE, CPU)(images)
    torch.testing.assert_close(found.permute(0, 2, 3, 1).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "resolution"), [(32, 56), (32, 33), (32, 64), (32, 24)])
def test_resizing_is_within_one_level_of_resizing_floats(side, resolution):
    images = random_images(20, side)
    planes = images.permute(0, 3, 1, 2).float()
    floats = F.interpolate(planes, resolution, mode="bilinear", antialias=resolution < side)
    expected = floats.round().permute(0, 2, 3, 1).numpy()
    found = stored_bytes(ResizeNormalize(MEAN, STD, resolution, CPU)(images))
    assert abs(found - expected).max() <= 1


@pytest.mark.parametrize("resolution", [SIDE, 20, 8])
def test_another_resolution_gives_what_a_new_transform_gives(resolution):
    images = random_images(9)
    other = ResizeNormalize(MEAN, STD, SIDE, CPU).at(resolution)
    assert torch.equal(other(images), ResizeNormalize(MEAN, STD, resolution, CPU)(images))


def test_without_augmentation_training_images_are_those_of_evaluation():
    images, ids = random_images(9), torch.arange(9)
    for resolution in (SIDE, 20):
        evaluated = ResizeNormalize(MEAN, STD, resolution, CPU)(images)
        assert torch.equal(augmented(images, ids, 5, resolution), evaluated)


@pytest.mark.parametrize("options", [{"flip": True}, {"crop_padding": 2}, {"cutout_size": 4}])
def test_transforms_depend_on_epoch_and_seed_and_are_reproducible(options):
    images, ids = random_images(20), torch.arange(20)
    first = augmented(images, ids, 0, **options)
    assert torch.equal(augmented(images, ids, 0, **options), first)
    assert not torch.equal(augmented(images, ids, 1, **options), first)
    assert not torch.equal(augmented(images, ids, 0, **options, seed=SEED + 1), first)


@pytest.mark.parametrize("resolution", [SIDE, 20, 8])
def test_output_is_float32_and_channels_last(resolution):
    for found in (
        augmented(random_images(5), torch.arange(5), 0, resolution, flip=True, crop_padding=2, cutout_size=3),
        ResizeNormalize(MEAN, STD, resolution, CPU)(random_images(5)),
    ):
        assert found.dtype == torch.float32
        assert found.shape == (5, 3, resolution, resolution)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_stored_images_are_not_modified():
    images = random_images(5)
    before = images.clone()
    augmented(images, torch.arange(5), 0, flip=True, crop_padding=2, cutout_size=3, randaugment_num_ops=1)
    ResizeNormalize(MEAN, STD, SIDE, CPU)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "options",
    [{}, {"flip": True}, {"crop_padding": 2}, {"cutout_size": 3}, {"randaugment_num_ops": 1}],
    ids=lambda options: next(iter(options), "none"),
)
def test_transformed_images_are_bytes(options):
    assert transforms(**options)(random_images(5), torch.arange(5), 0).dtype == torch.uint8
