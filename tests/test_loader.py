"""Shards, order, FFCV and augmentation together: what the trainer is given."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from images import convert_synthetic
from nursery import ForkedCommand
from programs import run

from data import reader as reader_module
from data.augment.progressive_resizing import ProgressiveResizing
from data.errors import DataError, LoaderError
from data.loader import LoaderOptions, Place, TrainingLoader, open_loaders
from data.manifest import read_manifest
from data.reading.device_cache import Where, wanted
from data.sampler import epoch_order

CPU = torch.device("cpu")
OPTIONS = LoaderOptions(
    resolution=40,
    initial_resolution=24,
    progressive_resizing_epochs=0,
    batch_size=96,
    drop_last=False,
    workers=1,
    prefetch_batches=2,
    loader_timeout=20.0,
    cache="none",
    shuffle_window=0,
    keep_page_cache=True,
    center_crop_ratio=0.875,
    flip=True,
    crop_padding=4,
    rrc_min_scale=0.0,
    cutout_size=6,
    randaugment_num_ops=2,
    randaugment_magnitude=9,
    mixup_prob=0.0,
    cutmix_prob=0.0,
    seed=5,
)
MIXED = {"mixup_prob": 0.3, "cutmix_prob": 0.4}
CUT = {"rrc_min_scale": 0.3, "crop_padding": 0, "shuffle_window": 250}


def loaders(shards, rank=0, world=1, **changed):
    options = LoaderOptions(**{**vars(OPTIONS), **changed})
    return open_loaders(Path(shards), read_manifest(Path(shards)), options, Place(rank, world, CPU))


def global_batches(shards, world, epoch, first_step=0, **changed):
    """Each global batch of an epoch, images and targets, put together from what the ranks get."""
    ranks = [list(loaders(shards, rank, world, **changed)[0].epoch(epoch, first_step)) for rank in range(world)]
    for parts in zip(*ranks, strict=True):
        assert sum(len(part.labels) for part in parts) == parts[0].global_size
        yield torch.cat([part.images for part in parts]), torch.cat([part.targets for part in parts])


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for (images, labels), (other_images, other_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, other_labels)
        assert torch.equal(images, other_images), "to the bit"


@pytest.mark.parametrize("how", [{}, MIXED, MIXED | CUT], ids=["apart", "mixed", "mixed cuts"])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_step_is_the_same_for_any_number_of_processes(shards, world, how):
    same(global_batches(shards, world, epoch=3, **how), global_batches(shards, 1, epoch=3, **how))


@pytest.mark.parametrize("how", [{}, CUT], ids=["whole", "cut"])
def test_memory_that_is_given_back_changes_nothing(shards, how):
    for kept, given_back in zip(loaders(shards, **how), loaders(shards, **how, keep_page_cache=False), strict=True):
        if isinstance(kept, TrainingLoader):
            kept, given_back = kept.epoch(1), given_back.epoch(1)
        same(pairs(kept), pairs(given_back))


def test_cuts_are_others_in_each_epoch_and_of_the_side_that_images_have_grown_to(shards):
    train, val = loaders(shards, **CUT | {"progressive_resizing_epochs": 3, "initial_resolution": 24, "resolution": 32})
    sides = [next(train.epoch(epoch)).images.shape[2] for epoch in range(4)]
    assert sides == [24, 24, 28, 32]
    middle, whole = (next(iter(loader)).images for loader in (val, loaders(shards, resolution=32)[1]))
    assert middle.shape == whole.shape
    assert not torch.equal(middle, whole)
    still = {"flip": False, "randaugment_num_ops": 0, "cutout_size": 0}
    train, _ = loaders(shards, **CUT | still)
    seen = []
    for epoch in (0, 1):
        images = torch.cat([batch.images for batch in train.epoch(epoch)])
        seen.append(images[epoch_order(1000, OPTIONS.seed, epoch, CUT["shuffle_window"]).argsort()])
    assert (seen[0] != seen[1]).flatten(1).any(1).float().mean() > 0.9


def test_shards_larger_than_the_memory_they_may_take_are_streamed(tmp_path):
    """190 MB, of which a quarter may be in memory at a time: windows of 80 images of 200 KB each are 16 MB."""
    options = ["--source", "synthetic", "--per-class", "8", "--resize", "--resolution", "256", "--shards", "2"]
    done = run(ForkedCommand(["-m", "data.convert", *options, "--out", str(tmp_path / "large")]))
    assert done.returncode == 0, done.stderr
    grew = {}
    for keep_pages in ("true", "false"):
        done = run(ForkedCommand(["tests/streamed.py", str(tmp_path / "large"), "80", keep_pages]))
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["seen"] == 2 * 800 + 100
        grew[keep_pages] = told["grew"]
    assert grew["false"] < 48e6
    assert grew["false"] < grew["true"], "what would be kept otherwise"


@pytest.mark.parametrize("count", [1, 8])
def test_every_step_is_the_same_for_any_number_of_shards(shards, tmp_path, count):
    other = convert_synthetic(tmp_path / "other", 10, count)
    same(global_batches(other, 1, epoch=1), global_batches(shards, 1, epoch=1))


@pytest.mark.parametrize("mix", [{}, MIXED], ids=["apart", "mixed"])
@pytest.mark.parametrize("world", [1, 3])
def test_samples_in_memory_are_the_same_as_those_in_the_shards(shards, world, mix):
    for rank in range(world):
        streamed, cached = (loaders(shards, rank, world, cache=where, **mix) for where in ("none", "device"))
        for epoch in (0, 1):
            same(*(pairs(loader[0].epoch(epoch)) for loader in (streamed, cached)))
        same(*(pairs(loader[1]) for loader in (streamed, cached)))


def pairs(batches):
    return [(batch.images, batch.targets) for batch in batches]


def test_a_sample_is_mixed_with_its_partner_as_that_comes_out_of_its_own_augmentation(shards):
    (apart, _), (mixed, _) = loaders(shards), loaders(shards, **MIXED)
    order, images = epoch_order(1000, OPTIONS.seed, 2), torch.empty(1000, 3, 40, 40)
    labels = torch.empty(1000, dtype=torch.int64)
    for ids, batch in zip(order.split(OPTIONS.batch_size), apart.epoch(2), strict=True):
        images[ids], labels[ids] = batch.images, batch.labels
    for ids, batch in zip(order.split(OPTIONS.batch_size), mixed.epoch(2), strict=True):
        both = torch.cat([ids, mixed.mix.partners(ids, 2)])
        same([(batch.images, batch.targets)], [mixed.mix.mixed(images[both], labels[both], ids, 2)])
        assert torch.equal(batch.labels, labels[ids])


def test_memory_that_is_not_there_is_told_in_one_line(shards):
    manifest = read_manifest(shards)
    with pytest.raises(DataError, match=r"data.cache is device: .* GB are needed, and .* GB are free"):
        wanted(Where.device, replace(manifest, resolution=2**20), CPU)
    assert wanted(Where.device, manifest, CPU)
    assert not wanted(Where.auto, manifest, CPU), "the system's own cache does as well there"


def test_an_epoch_can_be_entered_at_any_step(shards):
    same(global_batches(shards, 2, epoch=2, first_step=7), list(global_batches(shards, 1, epoch=2))[7:])
    assert list(global_batches(shards, 1, epoch=2, first_step=11)) == []


def test_training_images_grow_and_test_images_do_not(shards):
    train, val = loaders(shards, progressive_resizing_epochs=2)
    for epoch, side in enumerate([24, 32, 40, 40]):
        assert next(train.epoch(epoch)).images.shape[2:] == (side, side)
        assert next(iter(val)).images.shape[2:] == (40, 40)
    whole, _ = loaders(shards)
    same(pairs(train.epoch(2)), pairs(whole.epoch(2)))


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 40))
def test_sides_never_shrink_and_end_at_the_last(first, more, epochs):
    growth = ProgressiveResizing(first, first + more, epochs)
    sides = [growth.side(epoch) for epoch in range(epochs + 3)]
    assert sides == sorted(sides)
    assert sides[0] == first
    assert sides[epochs:] == [first + more] * 3
    assert all((side - first) % 4 == 0 for side in sides[:epochs])
    straight = [first + more * epoch / epochs for epoch in range(epochs)]
    assert all(0 <= exact - side < 4 + 1e-6 for exact, side in zip(straight, sides, strict=False))


def test_epochs_differ(shards):
    first, second = (next(global_batches(shards, 1, epoch)) for epoch in (0, 1))
    assert not torch.equal(first[1], second[1])


def test_nothing_is_dropped_unless_asked(shards):
    train, _ = loaders(shards)
    assert (train.steps, train.dropped) == (11, 0)
    assert sum(len(batch.labels) for batch in train.epoch(0)) == 1000
    train, _ = loaders(shards, drop_last=True)
    assert (train.steps, train.dropped) == (10, 40)
    with pytest.raises(DataError, match="do not fill one batch of 2000"):
        loaders(shards, drop_last=True, batch_size=2000)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_sees_each_sample_once_and_unchanged(shards, world):
    parts = [batch for rank in range(world) for batch in loaders(shards, rank, world)[1]]
    labels = torch.cat([part.labels for part in parts])
    assert torch.equal(labels.bincount(minlength=100), torch.full((100,), 2))
    images = torch.cat([part.images for part in parts])
    assert torch.equal(images, torch.cat([batch.images for batch in loaders(shards)[1]]))
    assert images.shape == (200, 3, 40, 40)


def test_a_rank_without_test_samples_is_no_error(tmp_path):
    few = convert_synthetic(tmp_path / "few", 3, 1)
    assert list(loaders(few, rank=0, world=150, batch_size=300)[1]) == []


def test_batches_that_are_kept_stay_as_they_were(shards):
    """FFCV re-uses its buffers; nothing that leaves the loader may point into them."""
    _, val = loaders(shards, batch_size=10)
    kept = list(val)
    copies = [(batch.images.clone(), batch.labels.clone()) for batch in loaders(shards, batch_size=10)[1]]
    same([(batch.images, batch.labels) for batch in kept], copies)


def test_loops_that_are_left_early_leave_nothing_behind(shards):
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


def decode_by(monkeypatch, function):
    """FFCV's pipeline with another function in the place of what it compiled."""
    compiled = reader_module._compiled
    monkeypatch.setattr(reader_module, "_compiled", lambda *kind: (compiled(*kind)[0], ([(function, [0])], [0])))


def test_a_decoder_that_fails_is_an_error_and_not_an_endless_wait(shards, monkeypatch):
    def fail(**_):
        raise ValueError("no such pixel")

    decode_by(monkeypatch, fail)
    with pytest.raises(LoaderError, match="no such pixel"):
        next(loaders(shards)[0].epoch(0))


def test_a_decoder_that_stalls_is_an_error_and_not_an_endless_wait(shards, monkeypatch):
    released = threading.Event()
    decode_by(monkeypatch, lambda **_: released.wait(30))
    with pytest.raises(LoaderError, match=r"stalled: no batch for 0\.5 s"):
        next(loaders(shards, loader_timeout=0.5)[0].epoch(0))
    released.set()


def test_importing_ffcv_leaves_torch_its_threads():
    assert reader_module.Compiler.num_threads >= 1
    assert torch.get_num_threads() == int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))


def test_several_decoding_threads_read_the_same(shards):
    one, two = (list(loaders(shards, workers=workers)[0].epoch(0)) for workers in (1, 2))
    same([(batch.images, batch.labels) for batch in two], [(batch.images, batch.labels) for batch in one])
