"""Copies of shards on a local disk: complete, and made once for any number of processes and jobs."""

import contextlib
import fcntl
import io
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from disks import mounted_tmpfs
from fork_server import free_port
from images import convert_synthetic
from limits import LIMIT
from processes import ROOT, kill_group, run, start, trainer, wait_until
from run_directory import outcome

from data.errors import DataError
from data.local_copy import copy_directory, copy_shards, prepare_shards
from data.manifest import Verify, read_manifest, verify


def modification_times(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.iterdir() if path.name != ".lock"}


def test_a_copy_is_complete_and_made_once(shards, tmp_path):
    copy = copy_shards(shards, tmp_path)
    verify(copy, read_manifest(copy), Verify.always)
    assert {path.name for path in shards.iterdir()} == set(modification_times(copy))
    before = modification_times(copy)
    assert copy_shards(shards, tmp_path) == copy == copy_directory(shards, tmp_path)
    assert modification_times(copy) == before


def test_a_damaged_or_incomplete_copy_is_repaired(shards, tmp_path):
    copy = copy_shards(shards, tmp_path)
    for damaged in (next(copy.glob("val-00001-*")), copy / "manifest.json"):
        damaged.write_bytes(b"truncated")
        copy_shards(shards, tmp_path)
        verify(copy, read_manifest(copy), Verify.always)
    (copy / "manifest.json").unlink()
    next(copy.glob("train-00000-*")).unlink()
    copy_shards(shards, tmp_path)
    verify(copy, read_manifest(copy), Verify.always)


def test_shards_that_an_interrupted_copy_completed_are_not_copied_again(shards, tmp_path):
    copy = copy_shards(shards, tmp_path)
    (copy / "manifest.json").unlink()
    truncated, *kept = sorted(copy.glob("*.beton"))
    truncated.write_bytes(b"truncated")
    before = {path: path.stat().st_ino for path in kept}
    copy_shards(shards, tmp_path)
    assert {path: path.stat().st_ino for path in kept} == before
    verify(copy, read_manifest(copy), Verify.always)


def test_other_shards_get_another_directory(shards, tmp_path):
    other = convert_synthetic(tmp_path / "other", 2, 1)
    assert copy_shards(shards, tmp_path / "disk") != copy_shards(other, tmp_path / "disk")


def test_a_damaged_source_is_named_and_gives_no_copy(shards, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(shards, source)
    shard = next(source.glob("train-00002-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"{shard.name}: SHA-256"):
        copy_shards(source, tmp_path / "disk")
    assert not (copy_directory(source, tmp_path / "disk") / "manifest.json").exists()


def test_a_missing_shard_is_named_with_the_remedy(shards, tmp_path):
    source = shutil.copytree(shards, tmp_path / "source")
    missing = next(source.glob("val-*"))
    missing.unlink()
    with pytest.raises(DataError, match=f"{missing} is missing: .* --overwrite"):
        copy_shards(source, tmp_path / "disk")


def test_a_disk_that_is_too_small_is_reported_before_copying(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "size=1m") as disk:
        with pytest.raises(DataError, match=r"[\d.]+ (kB|MB) are free, but .* needs [\d.]+ MB:"):
            copy_shards(shards, disk)
        (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(DataError, match=r"/disk: 0 bytes are free, but .* needs [\d.]+ MB:"):
            copy_shards(shards, disk)


def test_a_dataset_that_was_not_converted_is_named_with_the_remedy(tmp_path):
    """As without a local copy."""
    with pytest.raises(DataError, match=f"{tmp_path}/none: no manifest.json: .* convert it with python -m data.conv"):
        prepare_shards(tmp_path / "none", tmp_path / "disk", Verify.once)
    assert not (tmp_path / "disk").exists()


def test_a_dataset_that_is_replaced_while_it_is_copied_gives_no_copy(shards, tmp_path, monkeypatch):
    source = shutil.copytree(shards, tmp_path / "source")
    other = convert_synthetic(tmp_path / "other", 1, 1)

    def replace_and_verify(*args):
        shutil.copyfile(other / "manifest.json", source / "manifest.json")
        verify(*args)

    monkeypatch.setattr("data.local_copy.verify", replace_and_verify)
    target = copy_directory(source, tmp_path / "disk")
    with pytest.raises(DataError, match="was replaced while it was copied"):
        copy_shards(source, tmp_path / "disk")
    assert not (target / "manifest.json").exists()


def test_an_intact_copy_on_a_read_only_disk_is_used(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "size=64m") as disk:
        copy = copy_shards(shards, disk)
        run(["mount", "-o", "remount,ro", str(disk)])
        assert copy_shards(shards, disk) == copy


def test_a_process_that_waits_for_another_one_says_so(shards, tmp_path):
    target = copy_directory(shards, tmp_path)
    target.mkdir()
    # Not capsys, which would lose what the other thread prints while its output is read and deleted.
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), ThreadPoolExecutor(1) as pool, open(target / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(copy_shards, shards, tmp_path)
        wait_until(lambda: "waiting for another process" in printed.getvalue())
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result(timeout=LIMIT) == target


def test_concurrent_processes_share_one_copy(shards, tmp_path):
    program = (
        "import sys; from pathlib import Path; from data.local_copy import copy_shards; "
        "print(copy_shards(*map(Path, sys.argv[1:])))"
    )
    command = [sys.executable, "-c", program, str(shards), str(tmp_path)]
    racing = [start(command, PYTHONPATH=str(ROOT)) for _ in range(3)]
    directories = {process.communicate(timeout=LIMIT)[0].splitlines()[-1] for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0]
    (copy,) = map(Path, directories)
    verify(copy, read_manifest(copy), Verify.always)


def test_a_run_that_reads_the_copy_is_bit_identical(shards, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(shards, source)
    flags = ("--train.max_steps_per_epoch", "3", "--data.local_cache_dir", str(tmp_path / "disk"))
    assert run(trainer(tmp_path / "first", source, *flags, processes=2)).returncode == 0
    for shard in source.glob("*.beton"):
        shard.write_bytes(b"no longer read")
    assert run(trainer(tmp_path / "second", source, *flags)).returncode == 0
    assert run(trainer(tmp_path / "in place", shards, *flags[:2])).returncode == 0
    assert outcome(tmp_path / "second" / "tiny") == outcome(tmp_path / "in place" / "tiny")


def test_nodes_with_different_images_are_rejected(shards, tmp_path):
    """Each rank is the only one of its node."""
    other, port = convert_synthetic(tmp_path / "other", 2, 1), free_port()
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    directories = (shards, other)
    ranks = [start(trainer(tmp_path, path), **group, RANK=str(rank)) for rank, path in enumerate(directories)]
    try:
        for rank, directory in enumerate(directories):
            _, err = ranks[rank].communicate(timeout=LIMIT)
            message = f"{directory}: not the same dataset on every node; copy the same shards to all nodes"
            assert (ranks[rank].returncode, err) == (2, f"error (rank {rank}): {message}\n")
    finally:
        for process in ranks:
            kill_group(process)
