"""The augmentation pipeline, without shards: which parts are applied, to what, and in which order."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manifests import VALID

from data.augment import pipeline
from data.augment.image_transforms import ImageTransforms
from data.augment.mixup_cutmix import MixupCutmix
from data.augment.pipeline import TrainingPipeline
from data.augment.progressive_resizing import ProgressiveResizing
from data.augment.random_resized_crop import RandomResizedCrop
from data.augment.resize_normalize import ResizeNormalize
from data.rng import random_table
from regnet.config.schema import AugmentConfig

CPU = torch.device("cpu")
SEED, EPOCH = 5, 3
SAMPLES, CLASSES = 7, 2  # of the manifest
NOTHING = AugmentConfig(flip=False, crop_padding=0)
IMAGES = {
    "nothing": {},
    "flip": {"flip": True},
    "crop, flip and cutout": {"flip": True, "crop_padding": 3, "cutout_size": 5},
}
MIXING = {
    "unmixed": {},
    "Mixup": {"mixup_prob": 0.7},
    "CutMix": {"cutmix_prob": 0.7},
    "both": {"mixup_prob": 0.4, "cutmix_prob": 0.4},
}
every_mixing = pytest.mark.parametrize("mixing", MIXING.values(), ids=MIXING)


def training_pipeline(resizing=None, **options):
    resizing = resizing or ProgressiveResizing(16, 48, 8)
    return TrainingPipeline(replace(NOTHING, **options), VALID, resizing, SEED, CPU)


def mixup_cutmix(mixup_prob=0.0, cutmix_prob=0.0):
    return MixupCutmix(mixup_prob, cutmix_prob, SAMPLES, CLASSES)


def stored(ids, side=VALID.resolution):
    """Stored images and labels of these samples."""
    images = torch.randint(256, (SAMPLES, side, side, 3), generator=torch.Generator().manual_seed(side))
    return images.to(torch.uint8)[ids], torch.arange(SAMPLES)[ids] % CLASSES


@every_mixing
def test_samples_are_read_with_their_partners_where_they_are_mixed(mixing):
    train, batches = training_pipeline(**mixing), [torch.tensor([3, 1]), torch.tensor([6, 2, 0])]
    found = train.ids_to_read(batches, EPOCH)
    assert train.images_per_sample == (2 if mixing else 1)
    assert train.ids_to_read([], EPOCH) == []
    for ids, batch in zip(found, batches, strict=True):
        partners = mixup_cutmix(**mixing).partners(SEED, EPOCH, batch)
        assert ids.tolist() == [*batch.tolist(), *(partners.tolist() if mixing else [])]


@every_mixing
@pytest.mark.parametrize("options", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("rrc_min_scale", [0, 0.3])
def test_images_are_transformed_resized_normalised_and_mixed(options, mixing, rrc_min_scale):
    """Stored images have 32 pixels; with crops, the decoder resizes them, to 28 pixels in this epoch."""
    train = training_pipeline(**options, **mixing, rrc_min_scale=rrc_min_scale)
    side = train.resizing.side(EPOCH)
    assert side == 28
    stored_side = side if rrc_min_scale else VALID.resolution
    (ids,) = train.ids_to_read([torch.tensor([4, 0, 5])], EPOCH)
    images, labels = stored(ids, stored_side)
    (numbers,) = train.random_numbers([ids], EPOCH)
    found, own_labels, targets = train.at(side)(images, labels, numbers)

    transforms = ImageTransforms(replace(NOTHING, **options), VALID.mean, stored_side, CPU)
    transformed = transforms(images, random_table(SEED, EPOCH, transforms.columns, ids))
    expected = ResizeNormalize(VALID.mean, VALID.std, side, CPU)(transformed)
    if not mixing:
        assert torch.equal(found, expected)
        assert targets is own_labels is labels
        return
    mix = mixup_cutmix(**mixing)
    mixed, mixed_targets = mix.mix(expected, labels, random_table(SEED, EPOCH, mix.columns, ids[:3]))
    assert torch.equal(found, mixed)
    assert torch.equal(targets, mixed_targets)
    assert torch.equal(own_labels, labels[:3])


def test_evaluation_uses_the_final_side():
    images, _ = stored(torch.arange(3))
    train = training_pipeline()
    assert torch.equal(train.resize_normalize(images), ResizeNormalize(VALID.mean, VALID.std, 48, CPU)(images))


def test_only_random_resized_crop_has_boxes():
    sizes = torch.tensor([[30, 20]] * SAMPLES)
    assert training_pipeline().crop_boxes(sizes, EPOCH) is None
    found = training_pipeline(rrc_min_scale=0.3).crop_boxes(sizes, EPOCH)
    expected = RandomResizedCrop(0.3, SEED).boxes(sizes, EPOCH, 28)
    assert found.side == 28
    assert torch.equal(found.boxes, expected.boxes)


def test_the_transforms_of_a_side_are_made_once(monkeypatch):
    """They hold tables on the device; and a captured step refers to them."""
    made = []
    monkeypatch.setattr(pipeline, "ImageTransforms", lambda *args: made.append(args[2]) or ImageTransforms(*args))
    crops, whole = training_pipeline(rrc_min_scale=0.3, flip=True), training_pipeline(flip=True)
    for train in (whole, crops):
        for epoch in (0, 0, EPOCH, EPOCH):
            train.at(train.resizing.side(epoch))
            list(train.random_numbers([torch.arange(2)], epoch))
    assert made == [32, 16, 28]


@given(
    sizes=st.lists(st.integers(1, 9), max_size=8),
    rows=st.sampled_from([1, 4, 10, 10**6]),
    options=st.sampled_from([{}, {"flip": True, "mixup_prob": 0.5}]),
)
def test_tables_of_any_number_of_batches_hold_the_numbers_of_their_samples(sizes, rows, options):
    train = training_pipeline(**options)
    batches = [torch.arange(size) + 100 * number for number, size in enumerate(sizes)]
    mix = mixup_cutmix(0.5)
    columns = [*ImageTransforms(train.options, VALID.mean, 32, CPU).columns, *(mix.columns if options else ())]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "_TABLE_ROWS", rows)
        found = list(train.random_numbers(batches, EPOCH))
    for numbers, ids in zip(found, batches, strict=True):
        assert torch.equal(numbers, random_table(SEED, EPOCH, columns, ids))


@pytest.mark.parametrize(("at_most", "expected"), [(100, [80, 40]), (29, [30, 20, 30, 30, 10])])
def test_as_many_batches_as_fill_a_table_are_computed_at_once(monkeypatch, at_most, expected):
    """Three batches of at most 30 samples have 90 rows; a fourth would exceed 100. One batch is never split."""
    rows = []
    monkeypatch.setattr(pipeline, "_TABLE_ROWS", at_most)
    monkeypatch.setattr(pipeline, "random_table", lambda *args: rows.append(len(args[3])) or random_table(*args))
    list(training_pipeline(flip=True).random_numbers([torch.arange(size) for size in (30, 20, 30, 30, 10)], EPOCH))
    assert rows == expected
