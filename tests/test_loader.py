"""The loaders as the trainer uses them: shards, sampler, FFCV and augmentation together."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from images import convert_synthetic
from limits import LIMIT
from processes import run
from thoroughness import parametrize_some

from data.augment.progressive_resizing import ProgressiveResizing
from data.errors import DataError, LoaderError
from data.loader import RankInfo, TrainingLoader
from data.manifest import read_manifest
from data.open_loaders import LoaderOptions, open_loaders
from data.reading import ffcv_pipeline
from data.reading.device_cache import CacheLocation, use_device_cache
from data.rng import random_table
from data.sampler import epoch_order
from regnet.config.schema import AugmentConfig

CPU = torch.device("cpu")
OPTIONS = LoaderOptions(
    resolution=40,
    initial_resolution=24,
    progressive_resizing_epochs=0,
    batch_size=96,
    drop_last=False,
    workers=1,
    prefetch_batches=2,
    loader_timeout=LIMIT,
    cache="none",
    shuffle_window=0,
    keep_page_cache=True,
    center_crop_ratio=0.875,
    seed=5,
    augment=AugmentConfig(flip=True, crop_padding=4, cutout_size=6, randaugment_num_ops=2, randaugment_magnitude=9),
)
MIXED = {"mixup_prob": 0.3, "cutmix_prob": 0.4}
CROPPED = {"rrc_min_scale": 0.3, "crop_padding": 0, "shuffle_window": 250}


def loaders(shards, rank=0, world_size=1, **changed):
    """The loaders of a rank; `changed` are options of the loader and of augmentation."""
    augment = {name: changed.pop(name) for name in list(changed) if name in vars(OPTIONS.augment)}
    options = replace(OPTIONS, **changed, augment=replace(OPTIONS.augment, **augment))
    return open_loaders(Path(shards), read_manifest(Path(shards)), options, RankInfo(rank, world_size, CPU))


def global_batches(shards, world_size, epoch, first_step=0, **changed):
    """Each global batch of an epoch, images and targets, concatenated from those of the ranks."""
    ranks = [
        list(loaders(shards, rank, world_size, **changed)[0].epoch(epoch, first_step)) for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        assert sum(len(part.labels) for part in parts) == parts[0].global_size
        yield torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts])


def assert_equal(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, other_labels)
        assert torch.equal(images, other_images), "bit-identical"


def pairs(batches):
    return [(batch.images, batch.targets) for batch in batches]


@pytest.mark.parametrize("how", [{}, MIXED, MIXED | CROPPED], ids=["unmixed", "mixed", "mixed and cropped"])
@parametrize_some("world_size", [3, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(shards, world_size, how):
    assert_equal(global_batches(shards, world_size, epoch=3, **how), global_batches(shards, 1, epoch=3, **how))


@parametrize_some("how", [CROPPED, {}], ids=["cropped", "whole"])
def test_releasing_pages_does_not_change_batches(shards, how):
    for kept, released in zip(loaders(shards, **how), loaders(shards, **how, keep_page_cache=False), strict=True):
        if isinstance(kept, TrainingLoader):
            kept, released = kept.epoch(1), released.epoch(1)
        assert_equal(pairs(kept), pairs(released))


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
        by_id.append(images[epoch_order(1000, OPTIONS.seed, epoch, CROPPED["shuffle_window"]).argsort()])
    assert (by_id[0] != by_id[1]).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.thorough
def test_shards_larger_than_their_share_of_memory_are_streamed(tmp_path):
    """190 MB, of which at most a quarter may be in memory: windows of 80 images of 200 kB are 16 MB."""
    options = ["--source", "synthetic", "--per-class", "8", "--resize", "--resolution", "256", "--shards", "2"]
    done = run(ForkedCommand(["-m", "data.convert", *options, "--out", str(tmp_path / "large")]))
    assert done.returncode == 0, done.stderr
    grew = {}
    for keep_page_cache in ("true", "false"):
        done = run(
            ForkedCommand(["tests/helpers/measure_streaming.py", str(tmp_path / "large"), "80", keep_page_cache])
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["samples"] == 2 * 800 + 100
        grew[keep_page_cache] = report["grew"]
    assert grew["false"] < 48e6
    assert grew["false"] < grew["true"], "pages are kept otherwise"


@parametrize_some("count", [8, 1])
def test_global_batches_do_not_depend_on_the_number_of_shards(shards, tmp_path, count):
    other = convert_synthetic(tmp_path / "other", 10, count)
    assert_equal(global_batches(other, 1, epoch=1), global_batches(shards, 1, epoch=1))


@pytest.mark.parametrize("mix", [{}, MIXED], ids=["unmixed", "mixed"])
@parametrize_some("world_size", [3, 1])
def test_cached_samples_equal_streamed_ones(shards, world_size, mix):
    for rank in range(world_size):
        streamed, cached = (loaders(shards, rank, world_size, cache=where, **mix) for where in ("none", "device"))
        for epoch in (0, 1):
            assert_equal(*(pairs(loader[0].epoch(epoch)) for loader in (streamed, cached)))
        assert_equal(*(pairs(loader[1]) for loader in (streamed, cached)))


def test_a_sample_is_mixed_with_the_augmented_image_of_its_partner(shards):
    (unmixed, _), (mixed, _) = loaders(shards), loaders(shards, **MIXED)
    order, images = epoch_order(1000, OPTIONS.seed, 2), torch.empty(1000, 3, 40, 40)
    labels = torch.empty(1000, dtype=torch.int64)
    for ids, batch in zip(order.split(OPTIONS.batch_size), unmixed.epoch(2), strict=True):
        images[ids], labels[ids] = batch.images, batch.labels
    mixup_cutmix = mixed.pipeline.mixup_cutmix
    for ids, batch in zip(order.split(OPTIONS.batch_size), mixed.epoch(2), strict=True):
        both = torch.cat([ids, mixup_cutmix.partners(OPTIONS.seed, 2, ids)])
        numbers = random_table(OPTIONS.seed, 2, mixup_cutmix.columns, ids)
        assert_equal([(batch.images, batch.targets)], [mixup_cutmix.mix(images[both], labels[both], numbers)])
        assert torch.equal(batch.labels, labels[ids])


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
        assert_equal(pairs(train.epoch(epoch, 9)), pairs(plain.epoch(epoch, 9)))
    assert [calls for _, calls in captured] == [2, 2, 4], "two steps of the sides 32, 36, 40 and 40"


def test_a_cache_without_enough_memory_is_a_one_line_error(shards):
    manifest = read_manifest(shards)
    with pytest.raises(DataError, match=r"data.cache is device, which needs .* GB on cpu, but .* GB are free: use"):
        use_device_cache(CacheLocation.device, replace(manifest, resolution=2**20), CPU)
    assert use_device_cache(CacheLocation.device, manifest, CPU)
    assert not use_device_cache(CacheLocation.auto, manifest, CPU), "there the page cache is as good"


def test_an_epoch_can_start_at_any_step(shards):
    assert_equal(global_batches(shards, 2, epoch=2, first_step=7), list(global_batches(shards, 1, epoch=2))[7:])
    assert list(global_batches(shards, 1, epoch=2, first_step=11)) == []


def test_progressive_resizing_changes_training_images_only(shards):
    train, val = loaders(shards, progressive_resizing_epochs=2)
    for epoch, side in enumerate([24, 32, 40, 40]):
        assert next(train.epoch(epoch)).images.shape[2:] == (side, side)
        assert next(iter(val)).images.shape[2:] == (40, 40)
    constant, _ = loaders(shards)
    assert_equal(pairs(train.epoch(2)), pairs(constant.epoch(2)))


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


def test_epochs_differ(shards):
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


def test_batches_are_not_overwritten_by_later_ones(shards):
    """FFCV reuses its buffers, so batches must be copies."""
    _, val = loaders(shards, batch_size=10)
    kept = list(val)
    copies = [(batch.images.clone(), batch.labels.clone()) for batch in loaders(shards, batch_size=10)[1]]
    assert_equal([(batch.images, batch.labels) for batch in kept], copies)


@pytest.mark.thorough
def test_loops_that_end_early_leak_neither_threads_nor_files(shards):
    train, val = loaders(shards)
    next(iter(train.epoch(0))), next(iter(val))
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for epoch in range(20):
        for step, _ in enumerate(train.epoch(epoch)):
            if step == epoch % 3:
                break
        next(iter(val))
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= files


def replace_decoder(monkeypatch, function):
    """Replaces the compiled function of FFCV's pipeline."""
    compiled = ffcv_pipeline.compiled_pipeline
    monkeypatch.setattr(ffcv_pipeline, "compiled_pipeline", lambda *key: (compiled(*key)[0], ([(function, [0])], [0])))


def test_a_decoder_that_fails_raises_in_the_consumer(shards, monkeypatch):
    def fail(**_):
        raise ValueError("no such pixel")

    replace_decoder(monkeypatch, fail)
    with pytest.raises(LoaderError, match="no such pixel"):
        next(loaders(shards)[0].epoch(0))


def test_a_decoder_that_stalls_raises_after_the_timeout(shards, monkeypatch):
    released = threading.Event()
    replace_decoder(monkeypatch, lambda **_: released.wait(30))
    with pytest.raises(LoaderError, match=r"stalled: no batch for 0\.5 s"):
        next(loaders(shards, loader_timeout=0.5)[0].epoch(0))
    released.set()


def test_importing_ffcv_does_not_change_the_number_of_torch_threads():
    assert ffcv_pipeline.Compiler.num_threads >= 1
    assert torch.get_num_threads() == int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))


def test_the_number_of_decoding_threads_does_not_change_batches(shards):
    one, two = (list(loaders(shards, workers=workers)[0].epoch(0)) for workers in (1, 2))
    assert_equal([(batch.images, batch.labels) for batch in two], [(batch.images, batch.labels) for batch in one])


def test_more_workers_than_threads_are_rejected(shards):
    with pytest.raises(DataError, match=r"data\.workers is 999, but this process may use at most \d+ threads"):
        loaders(shards, workers=999)
