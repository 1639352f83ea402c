import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from data.augment.image_transforms import Augment
from data.rng import Purpose, integers

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
MEAN_COLOUR = (128, 102, 76)  # 255 times the mean; 127.5 and 76.5 are ties, which go to the even side
SEED = 7
SIDE = 12


def augment(resolution=SIDE, seed=SEED, **options):
    return Augment(MEAN, STD, resolution, torch.device("cpu"), magnitude=9, seed=seed, **options)


def random_images(count, side=SIDE):
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def levels(normalised):
    """The 0 to 255 of each pixel, float (N, H, W, 3), of normalised images."""
    return 255 * (normalised.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN))


def stored_bytes(normalised):
    found = levels(normalised)
    torch.testing.assert_close(found, found.round(), rtol=0, atol=1e-3)
    return found.round().to(torch.uint8).numpy()


def draw(purpose, sample, epoch, bound):
    return int(integers(SEED, epoch, purpose, torch.tensor([sample]), bound))


def slow_training_image(image, sample, epoch, flip, crop_padding, cutout):
    """What becomes of one sample, pixel by pixel: uint8 (SIDE, SIDE, 3)."""
    places = 2 * crop_padding + 1
    top = draw(Purpose.crop_row, sample, epoch, places) - crop_padding
    left = draw(Purpose.crop_column, sample, epoch, places) - crop_padding
    mirrored = flip and draw(Purpose.flip, sample, epoch, 2)
    hole_top = draw(Purpose.cutout_row, sample, epoch, SIDE) - cutout // 2
    hole_left = draw(Purpose.cutout_column, sample, epoch, SIDE) - cutout // 2
    result = np.zeros((SIDE, SIDE, 3), np.uint8)
    for y in range(SIDE):
        for x in range(SIDE):
            row, column = top + y, left + (SIDE - 1 - x if mirrored else x)
            if 0 <= row < SIDE and 0 <= column < SIDE:
                result[y, x] = image[row, column]
            if hole_top <= y < hole_top + cutout and hole_left <= x < hole_left + cutout:
                result[y, x] = MEAN_COLOUR
    return result


@given(
    flip=st.booleans(),
    crop_padding=st.integers(0, SIDE + 2),
    cutout=st.integers(0, 2 * SIDE),
    first_id=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
)
@settings(deadline=None, max_examples=40)
def test_training_agrees_with_one_pixel_after_the_other(flip, crop_padding, cutout, first_id, epoch):
    images, ids = random_images(4), torch.arange(first_id, first_id + 4)
    found = augment(flip=flip, crop_padding=crop_padding, cutout=cutout).training(images, ids, epoch)
    slow = [
        slow_training_image(image, sample, epoch, flip, crop_padding, cutout)
        for image, sample in zip(images.numpy(), ids.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(stored_bytes(found), np.stack(slow))


@given(
    order=st.permutations(range(12)),
    cuts=st.lists(st.integers(1, 11), max_size=11, unique=True),
    resolution=st.sampled_from([SIDE, SIDE + 9, 2 * SIDE, SIDE - 5]),
    options=st.fixed_dictionaries(
        {
            "flip": st.booleans(),
            "crop_padding": st.integers(0, 4),
            "cutout": st.integers(0, 8),
            "operations": st.integers(0, 2),
        }
    ),
)
@settings(deadline=None, max_examples=60)
def test_a_sample_is_the_same_to_the_bit_in_whatever_batch_it_comes(order, cuts, resolution, options):
    images, ids = random_images(12), torch.arange(100, 112)
    augmentation = augment(resolution, **options)
    order = torch.tensor(order)
    pieces = order.tensor_split(sorted(cuts))
    trained = torch.cat([augmentation.training(images[piece], ids[piece], 3) for piece in pieces])
    assert torch.equal(trained, augmentation.training(images, ids, 3)[order])
    evaluated = torch.cat([augmentation.evaluation(images[piece]) for piece in pieces])
    assert torch.equal(evaluated, augmentation.evaluation(images)[order])


@pytest.mark.parametrize("resolution", [32, 56])
def test_an_image_of_the_real_size_is_the_same_alone_and_in_a_batch(resolution):
    images, ids = random_images(50, side=32), torch.arange(50)
    augmentation = augment(resolution, flip=True, crop_padding=4, cutout=8, operations=2)
    whole = augmentation.training(images, ids, 0)
    for sample in range(50):
        alone = slice(sample, sample + 1)
        assert torch.equal(augmentation.training(images[alone], ids[alone], 0), whole[alone])


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_is_an_exact_square_of_the_mean_colour(size):
    images = torch.full((300, SIDE, SIDE, 3), 200, dtype=torch.uint8)
    found = stored_bytes(augment(cutout=size).training(images, torch.arange(300), 0))
    areas = set()
    for image in found:
        hole = (image == MEAN_COLOUR).all(axis=2)
        assert (image[~hole] == 200).all()
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert max(len(rows), len(columns)) <= size
        areas.add(hole.sum())
    # The centre is in the image, so at an edge a part of the square is cut off, but never all of it.
    assert max(areas) == size**2
    assert min(areas) >= max(1, (size // 2) ** 2)


def test_every_place_of_crop_and_flip_occurs():
    image = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    image[0, 5, 6] = 255
    found = augment(flip=True, crop_padding=1).training(image.expand(600, -1, -1, -1), torch.arange(600), 0)
    places = {tuple(place) for place in np.argwhere(stored_bytes(found)[..., 0])[:, 1:]}
    mirrored = {SIDE - 1 - column for column in (5, 6, 7)}
    assert places == {(row, column) for row in (4, 5, 6) for column in {5, 6, 7} | mirrored}


def test_evaluation_normalises():
    images = random_images(9)
    expected = (images.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    found = augment().evaluation(images)
    torch.testing.assert_close(found.permute(0, 2, 3, 1).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("side", "resolution"), [(32, 56), (32, 33), (32, 64), (32, 24)])
def test_resizing_stays_within_one_level_of_resizing_floats(side, resolution):
    images = random_images(20, side)
    planes = images.permute(0, 3, 1, 2).float()
    floats = F.interpolate(planes, resolution, mode="bilinear", antialias=resolution < side)
    expected = floats.round().permute(0, 2, 3, 1).numpy()
    found = stored_bytes(augment(resolution).evaluation(images))
    assert abs(found - expected).max() <= 1


def test_training_with_all_augmentation_off_is_evaluation():
    images, ids = random_images(9), torch.arange(9)
    for resolution in (SIDE, 20):
        augmentation = augment(resolution)
        assert torch.equal(augmentation.training(images, ids, 5), augmentation.evaluation(images))


@pytest.mark.parametrize("options", [{"flip": True}, {"crop_padding": 2}, {"cutout": 4}])
def test_epochs_and_seeds_differ_and_the_same_repeats(options):
    images, ids = random_images(20), torch.arange(20)
    first = augment(**options).training(images, ids, 0)
    assert torch.equal(augment(**options).training(images, ids, 0), first)
    assert not torch.equal(augment(**options).training(images, ids, 1), first)
    assert not torch.equal(augment(**options, seed=SEED + 1).training(images, ids, 0), first)


@pytest.mark.parametrize("resolution", [SIDE, 20, 8])
def test_output_is_float32_and_channels_last(resolution):
    augmentation = augment(resolution, flip=True, crop_padding=2, cutout=3)
    for found in (
        augmentation.training(random_images(5), torch.arange(5), 0),
        augmentation.evaluation(random_images(5)),
    ):
        assert found.dtype == torch.float32
        assert found.shape == (5, 3, resolution, resolution)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_stored_images_are_left_as_they_were():
    images = random_images(5)
    before = images.clone()
    augmentation = augment(flip=True, crop_padding=2, cutout=3)
    augmentation.training(images, torch.arange(5), 0)
    augmentation.evaluation(images)
    assert torch.equal(images, before)
