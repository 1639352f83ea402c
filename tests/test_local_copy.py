"""Shards on a local disk: whole, once, however many processes and jobs ask for them."""

import shutil
import sys
from pathlib import Path

import pytest
from images import convert_synthetic
from programs import ROOT, mounted_tmpfs, outcome, run, start, trainer

from data.errors import DataError
from data.local_copy import stage, staged
from data.manifest import Verify, read_manifest, verify


def files(place):
    return {path.name: path.stat().st_mtime_ns for path in place.iterdir() if path.name != ".lock"}


def test_a_copy_is_whole_and_made_once(shards, tmp_path):
    place = stage(shards, tmp_path)
    verify(place, read_manifest(place), Verify.always)
    assert {path.name for path in shards.iterdir()} == set(files(place))
    before = files(place)
    assert stage(shards, tmp_path) == place == staged(shards, tmp_path)
    assert files(place) == before


def test_a_copy_that_was_damaged_or_not_finished_is_made_again(shards, tmp_path):
    place = stage(shards, tmp_path)
    for damage in ("val-00001-of-00003.beton", "manifest.json"):
        (place / damage).write_bytes(b"cut")
        stage(shards, tmp_path)
        verify(place, read_manifest(place), Verify.always)
    (place / "manifest.json").unlink()
    (place / "train-00000-of-00003.beton").unlink()
    stage(shards, tmp_path)
    verify(place, read_manifest(place), Verify.always)


def test_what_an_interrupted_copy_has_left_is_not_copied_again(shards, tmp_path):
    place = stage(shards, tmp_path)
    (place / "manifest.json").unlink()
    cut, *kept = sorted(place.glob("*.beton"))
    cut.write_bytes(b"cut")
    before = {path: path.stat().st_ino for path in kept}
    stage(shards, tmp_path)
    assert {path: path.stat().st_ino for path in kept} == before
    verify(place, read_manifest(place), Verify.always)


def test_other_shards_have_another_place(shards, tmp_path):
    other = convert_synthetic(tmp_path / "other", 2, 1)
    assert stage(shards, tmp_path / "disk") != stage(other, tmp_path / "disk")


def test_a_damaged_source_is_named_and_leaves_no_copy(shards, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(shards, source)
    shard = source / "train-00002-of-00003.beton"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00002-of-00003\.beton: SHA-256"):
        stage(source, tmp_path / "disk")
    assert not (staged(source, tmp_path / "disk") / "manifest.json").exists()


def test_a_disk_that_is_too_small_is_told_in_advance(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "disk", "size=1m") as disk, pytest.raises(DataError, match="GB are free, and"):
        stage(shards, disk)


def test_processes_that_come_at_once_get_one_copy(shards, tmp_path):
    program = (
        "import sys; from pathlib import Path; from data.local_copy import stage; "
        "print(stage(*map(Path, sys.argv[1:])))"
    )
    command = [sys.executable, "-c", program, str(shards), str(tmp_path)]
    racing = [start(command, PYTHONPATH=str(ROOT)) for _ in range(3)]
    places = {process.communicate(timeout=60)[0].strip() for process in racing}
    assert [process.returncode for process in racing] == [0, 0, 0]
    (place,) = map(Path, places)
    verify(place, read_manifest(place), Verify.always)


def test_a_run_reads_the_copy_and_gives_the_same(shards, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(shards, source)
    flags = ("--train.max_steps_per_epoch", "3", "--data.local_cache_dir", str(tmp_path / "disk"))
    assert run(trainer(tmp_path / "first", source, *flags, processes=2)).returncode == 0
    for shard in source.glob("*.beton"):
        shard.write_bytes(b"nobody reads this any more")
    assert run(trainer(tmp_path / "second", source, *flags)).returncode == 0
    assert run(trainer(tmp_path / "unstaged", shards, *flags[:2])).returncode == 0
    assert outcome(tmp_path / "second" / "tiny") == outcome(tmp_path / "unstaged" / "tiny")
