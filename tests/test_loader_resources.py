"""Memory, threads and files of the loaders, and loader threads that fail or stall."""

import json
import os
import threading
from dataclasses import replace

import pytest
import torch
from converting import convert
from fork_server import ForkedCommand
from images import class_folders
from loading import CPU, CROPPED, MIXED, assert_batches_equal, images_and_targets, loaders
from processes import run
from thoroughness import parametrize_some

from data.errors import DataError, LoaderError
from data.loader import TrainingLoader
from data.manifest import read_manifest
from data.reading import ffcv_pipeline
from data.reading.device_cache import CacheLocation, use_device_cache


@parametrize_some("how", [CROPPED, {}], ids=["cropped", "whole"])
def test_releasing_pages_does_not_change_batches(shards, how):
    for kept, released in zip(loaders(shards, **how), loaders(shards, **how, keep_page_cache=False), strict=True):
        if isinstance(kept, TrainingLoader):
            kept, released = kept.epoch(1), released.epoch(1)
        assert_batches_equal(images_and_targets(kept), images_and_targets(released))


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


@pytest.mark.parametrize("mix", [{}, MIXED], ids=["unmixed", "mixed"])
@parametrize_some("world_size", [3, 1])
def test_cached_samples_equal_streamed_ones(shards, world_size, mix):
    for rank in range(world_size):
        streamed, cached = (loaders(shards, rank, world_size, cache=where, **mix) for where in ("none", "device"))
        for epoch in (0, 1):
            assert_batches_equal(*(images_and_targets(loader[0].epoch(epoch)) for loader in (streamed, cached)))
        assert_batches_equal(*(images_and_targets(loader[1]) for loader in (streamed, cached)))


def test_cached_jpegs_equal_streamed_ones_also_on_a_rank_without_validation_images(tmp_path):
    root = class_folders(tmp_path / "images", train=6, val=1)
    assert convert("--root", root, "--out", tmp_path / "out", "--mode", "jpg").returncode == 0
    validation_batches = []
    for rank in range(4):
        streamed, cached = (loaders(tmp_path / "out", rank, 4, cache=where) for where in ("none", "device"))
        assert_batches_equal(*(images_and_targets(loader[0].epoch(0)) for loader in (streamed, cached)))
        assert_batches_equal(*(images_and_targets(loader[1]) for loader in (streamed, cached)))
        validation_batches.append(len(list(cached[1])))
    assert sorted(validation_batches) == [0, 1, 1, 1]


def test_a_cache_without_enough_memory_is_a_one_line_error(shards):
    manifest = read_manifest(shards)
    with pytest.raises(DataError, match=r"data.cache is device, which needs .* GB on cpu, but .* GB are free: use"):
        use_device_cache(CacheLocation.device, replace(manifest, resolution=2**20), CPU)
    assert use_device_cache(CacheLocation.device, manifest, CPU)
    assert not use_device_cache(CacheLocation.auto, manifest, CPU), "there the page cache is as good"


def test_batches_are_not_overwritten_by_later_ones(shards):
    """FFCV reuses its buffers, so batches must be copies."""
    _, val = loaders(shards, batch_size=10)
    kept = list(val)
    copies = [(batch.images.clone(), batch.labels.clone()) for batch in loaders(shards, batch_size=10)[1]]
    assert_batches_equal([(batch.images, batch.labels) for batch in kept], copies)


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
    assert_batches_equal(
        [(batch.images, batch.labels) for batch in two], [(batch.images, batch.labels) for batch in one]
    )


def test_more_workers_than_threads_are_rejected(shards):
    with pytest.raises(DataError, match=r"data\.workers is 999, but this process may use at most \d+ threads"):
        loaders(shards, workers=999)
