"""How shards are verified against the manifest."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from manifests import CONTENTS, VALID, verify_error, write_valid

from data.manifest import Verify, read_manifest, sha256, verify, write_manifest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def directory(tmp_path):
    """A directory with shards and their manifest."""
    return write_valid(tmp_path)


@pytest.mark.parametrize("how", Verify)
def test_intact_shards_pass(directory, how):
    verify(directory, read_manifest(directory), how)
    verify(directory, read_manifest(directory), how)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path):
    path.write_bytes(b"")


def change_one_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [shorten, lengthen, empty, Path.unlink, change_one_byte])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_damaged_shard_is_named(directory, name, damage):
    damage(directory / name)
    assert name in verify_error(directory)


@pytest.mark.parametrize("damage", [shorten, lengthen, Path.unlink])
@pytest.mark.parametrize("how", Verify)
def test_sizes_are_always_checked(directory, how, damage):
    verify(directory, read_manifest(directory), how)
    damage(directory / "val-0.beton")
    assert "val-0.beton" in verify_error(directory, how)


def test_a_directory_in_place_of_a_shard_is_named(directory):
    path = directory / "val-0.beton"
    path.unlink()
    path.mkdir()
    train, (val,) = VALID.splits.values()
    same_size = replace(val, size=path.stat().st_size)
    write_manifest(directory, replace(VALID, splits={"train": train, "val": (same_size,)}))
    assert "val-0.beton" in verify_error(directory)


@pytest.fixture
def hashed(monkeypatch):
    """Collects the names of the files that are hashed."""
    names = []
    monkeypatch.setattr("data.manifest.sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def test_once_hashes_once_and_again_after_a_file_changed(directory, hashed):
    for _ in range(2):
        verify(directory, VALID, Verify.once)
    assert hashed == list(CONTENTS)
    os.utime(directory / "val-0.beton", ns=(0, 0))
    verify(directory, VALID, Verify.once)
    assert len(hashed) == 6


@pytest.mark.parametrize(("how", "times"), [(Verify.always, 2), (Verify.sizes, 0)])
def test_always_hashes_every_time_and_sizes_never(directory, hashed, how, times):
    for _ in range(2):
        verify(directory, VALID, how)
    assert hashed == times * list(CONTENTS)


def test_once_reports_a_damaged_shard_every_time(directory):
    change_one_byte(directory / "val-0.beton")
    for _ in range(2):
        assert "val-0.beton" in verify_error(directory, Verify.once)


def test_a_cache_that_is_not_writable_is_not_an_error(directory, monkeypatch):
    (directory / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "file"))
    verify(directory, VALID, Verify.once)
    verify(directory, VALID, Verify.always)
