"""Damage to a converted dataset's files is detected before FFCV opens one of them, or changes nothing."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from converting import convert, plain, read_all
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from images import class_folders
from thoroughness import examples

from data.errors import DataError
from data.manifest import Verify, read_manifest, verify


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    source = class_folders(folder / "images", train=6, val=3)
    assert convert("--source", "folder", "--root", source, "--out", folder / "out", "--shards", 3).returncode == 0
    return folder / "out"


FILES = [*(f"{split}-{k:05d}-of-00003.beton" for split in ("train", "val") for k in range(3)), "manifest.json"]


def file_name(intact: Path, name: str) -> str:
    """The name of the file that is called `name` but for its digest."""
    return next(path.name for path in intact.iterdir() if plain(path.name) == name)


def read_verified(directory: Path) -> dict:
    """Every sample of both splits, read as training does."""
    verify(directory, read_manifest(directory), Verify.always)
    return {split: [torch.from_numpy(part) for part in read_all(directory, split)] for split in ("train", "val")}


@pytest.fixture(scope="module")
def content(intact) -> dict:
    return read_verified(intact)


def same(ours: dict, theirs: dict) -> bool:
    return all(torch.equal(a, b) for split in theirs for a, b in zip(ours[split], theirs[split], strict=True))


# Damage that FFCV does not detect or that crashes it (files truncated within the data, or by 5, 24 or 2,400 bytes; one
# byte changed), and what file systems and people do.
KINDS = ["truncated", "short", "byte", "zeros", "longer", "empty", "missing", "swapped", "directory", "dangling link"]


def damage(intact: Path, directory: Path, kind: str, name: str, position: float, value: int) -> None:
    path = directory / name
    content = bytearray(path.read_bytes())
    at = min(int(position * len(content)), len(content) - 1)
    if kind == "truncated":
        os.truncate(path, at)
    elif kind == "short":
        os.truncate(path, max(0, len(content) - (5, 24, 2400)[value % 3]))
    elif kind in ("byte", "zeros"):
        count = 1 if kind == "byte" else 200
        content[at : at + count] = bytes([value if kind == "byte" else 0] * len(content[at : at + count]))
        path.write_bytes(content)
    elif kind == "longer":
        path.write_bytes(bytes(content) + bytes([value]) * 10)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "swapped":
        names = sorted(file.name for file in intact.iterdir())
        other = directory / names[value % len(names)]
        first, second = path.read_bytes(), other.read_bytes()
        path.write_bytes(second)
        other.write_bytes(first)
    else:
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind == "dangling link":
            path.symlink_to(directory / "nowhere")


def assert_detected_or_harmless(intact: Path, content: dict, damages) -> None:
    directory = intact.parent / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(intact, directory)
    for kind, name, position, value in damages:
        try:
            damage(intact, directory, kind, file_name(intact, name), position, value)
        except (OSError, IndexError):
            continue  # already missing, or empty
    message = ""
    try:
        found = read_verified(directory)
    except DataError as error:
        message = str(error)
    if message:
        assert str(directory) in message
        assert "\n" not in message
    else:
        assert same(found, content), damages


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swapped"])
def test_every_kind_of_damage_to_every_file_is_reported_with_its_name(intact, kind, name):
    directory = intact.parent / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(intact, directory)
    name = file_name(intact, name)
    original = (intact / name).read_bytes()
    damage(intact, directory, kind, name, 0.5, (original[len(original) // 2] + 1) % 256)
    if (directory / name).is_file() and (directory / name).read_bytes() == original:
        pytest.skip("this part of the file is already zero")
    with pytest.raises(DataError) as rejected:
        read_verified(directory)
    assert str(directory / name) in str(rejected.value) or str(directory) + ": no manifest" in str(rejected.value)
    if kind in ("truncated", "short", "longer", "empty") and name != "manifest.json":
        assert f"{(directory / name).stat().st_size} bytes, but the manifest records {len(original)};" in str(
            rejected.value
        )


@given(
    damages=st.lists(
        st.tuples(
            st.sampled_from(KINDS), st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(0, 255)
        ),
        min_size=1,
        max_size=3,
    )
)
@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_is_detected_or_harmless(intact, content, damages):
    assert_detected_or_harmless(intact, content, damages)
