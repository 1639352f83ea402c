"""The loaders as the trainer uses them: which samples, in which batches, on any number of processes and shards."""

import pytest
import torch
from images import convert_synthetic
from loading import CROPPED, LOADER_OPTIONS, MIXED, assert_batches_equal, global_batches, loaders
from thoroughness import parametrize_some

from data.errors import DataError
from data.rng import random_table
from data.sampler import epoch_order


@pytest.mark.parametrize("how", [{}, MIXED, MIXED | CROPPED], ids=["unmixed", "mixed", "mixed and cropped"])
@parametrize_some("world_size", [3, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(shards, world_size, how):
    assert_batches_equal(global_batches(shards, world_size, epoch=3, **how), global_batches(shards, 1, epoch=3, **how))


@parametrize_some("count", [8, 1])
def test_global_batches_do_not_depend_on_the_number_of_shards(shards, tmp_path, count):
    other = convert_synthetic(tmp_path / "other", 10, count)
    assert_batches_equal(global_batches(other, 1, epoch=1), global_batches(shards, 1, epoch=1))


def test_a_sample_is_mixed_with_the_augmented_image_of_its_partner(shards):
    (unmixed, _), (mixed, _) = loaders(shards), loaders(shards, **MIXED)
    order, images = epoch_order(1000, LOADER_OPTIONS.seed, 2), torch.empty(1000, 3, 40, 40)
    labels = torch.empty(1000, dtype=torch.int64)
    for ids, batch in zip(order.split(LOADER_OPTIONS.batch_size), unmixed.epoch(2), strict=True):
        images[ids], labels[ids] = batch.images, batch.labels
    mixup_cutmix = mixed.pipeline.mixup_cutmix
    for ids, batch in zip(order.split(LOADER_OPTIONS.batch_size), mixed.epoch(2), strict=True):
        both = torch.cat([ids, mixup_cutmix.partners(LOADER_OPTIONS.seed, 2, ids)])
        numbers = random_table(LOADER_OPTIONS.seed, 2, mixup_cutmix.columns, ids)
        assert_batches_equal([(batch.images, batch.targets)], [mixup_cutmix.mix(images[both], labels[both], numbers)])
        assert torch.equal(batch.labels, labels[ids])


def test_an_epoch_can_start_at_any_step(shards):
    assert_batches_equal(global_batches(shards, 2, epoch=2, first_step=7), list(global_batches(shards, 1, epoch=2))[7:])
    assert list(global_batches(shards, 1, epoch=2, first_step=11)) == []


def test_batches_differ_between_epochs(shards):
    first, second = (next(global_batches(shards, 1, epoch)) for epoch in (0, 1))
    assert not torch.equal(first[1], second[1])


def test_no_sample_is_dropped_without_drop_last(shards):
    train, _ = loaders(shards)
    assert (train.steps, train.dropped) == (11, 0)
    assert sum(len(batch.labels) for batch in train.epoch(0)) == 1000
    train, _ = loaders(shards, drop_last=True)
    assert (train.steps, train.dropped) == (10, 40)
    with pytest.raises(DataError, match="do not fill one batch of 2000"):
        loaders(shards, drop_last=True, batch_size=2000)


def test_a_batch_larger_than_the_dataset_is_one_step(shards):
    train, val = loaders(shards, batch_size=5000)
    assert (train.steps, train.dropped, val.steps) == (1, 0, 1)
    assert [len(batch.labels) for batch in train.epoch(0)] == [1000]
    assert [len(batch.labels) for batch in val] == [200]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_reads_each_sample_once_and_unaugmented(shards, world_size):
    parts = [batch for rank in range(world_size) for batch in loaders(shards, rank, world_size)[1]]
    labels = torch.cat([part.labels for part in parts])
    assert torch.equal(labels.bincount(minlength=100), torch.full((100,), 2))
    images = torch.cat([part.images for part in parts])
    assert torch.equal(images, torch.cat([batch.images for batch in loaders(shards)[1]]))
    assert images.shape == (200, 3, 40, 40)


def test_a_rank_without_validation_samples_is_not_an_error(tmp_path):
    few = convert_synthetic(tmp_path / "few", 3, 1)
    assert list(loaders(few, rank=0, world_size=150, batch_size=300)[1]) == []
