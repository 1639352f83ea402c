"""Whatever happens to a converted data set's files is caught before FFCV opens one of them, or changes nothing."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import class_folders
from test_convert import convert, read_all

from data.errors import DataError
from data.manifest import Verify, read_manifest, verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    source = class_folders(folder / "images", train=6, val=3)
    assert convert("--source", "folder", "--root", source, "--out", folder / "out", "--shards", 3).returncode == 0
    return folder / "out"


FILES = [*(f"{split}-{k:05d}-of-00003.beton" for split in ("train", "val") for k in range(3)), "manifest.json"]


def opened(directory: Path) -> dict:
    """What a training would be given: every sample of both splits."""
    verify(directory, read_manifest(directory), Verify.always)
    return {split: [torch.from_numpy(part) for part in read_all(directory, split)] for split in ("train", "val")}


@pytest.fixture(scope="module")
def content(whole) -> dict:
    return opened(whole)


def same(ours: dict, theirs: dict) -> bool:
    return all(torch.equal(a, b) for split in theirs for a, b in zip(ours[split], theirs[split], strict=True))


# The damages that FFCV itself does not notice, or dies of: cut in the data, at the end by 5, 24 and 2,400 bytes, one
# byte changed; and what file systems and people do.
KINDS = ["cut", "short", "byte", "zeros", "more", "empty", "missing", "swapped", "directory", "unreadable link"]


def hurt(directory: Path, kind: str, name: str, place: float, value: int) -> None:
    path = directory / name
    content = bytearray(path.read_bytes())
    at = min(int(place * len(content)), len(content) - 1)
    if kind == "cut":
        os.truncate(path, at)
    elif kind == "short":
        os.truncate(path, max(0, len(content) - (5, 24, 2400)[value % 3]))
    elif kind in ("byte", "zeros"):
        count = 1 if kind == "byte" else 200
        content[at : at + count] = bytes([value if kind == "byte" else 0] * len(content[at : at + count]))
        path.write_bytes(content)
    elif kind == "more":
        path.write_bytes(bytes(content) + bytes([value]) * 10)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "swapped":
        other = directory / FILES[value % len(FILES)]
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)
    else:
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind == "unreadable link":
            path.symlink_to(directory / "nowhere")


def is_caught_or_harmless(whole: Path, content: dict, damages) -> None:
    place = whole.parent / "hurt"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    for damage in damages:
        try:
            hurt(place, *damage)
        except (OSError, IndexError):
            continue  # already missing, or empty
    refused = ""
    try:
        found = opened(place)
    except DataError as error:
        refused = str(error)
    if refused:
        assert str(place) in refused
        assert "\n" not in refused
    else:
        assert same(found, content), damages


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "swapped"])
def test_every_kind_of_damage_to_every_file_is_named(whole, kind, name):
    place = whole.parent / "hurt"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    original = (whole / name).read_bytes()
    hurt(place, kind, name, 0.5, (original[len(original) // 2] + 1) % 256)
    if (place / name).is_file() and (place / name).read_bytes() == original:
        pytest.skip("this part of the file is zeros already")
    with pytest.raises(DataError) as refused:
        opened(place)
    assert str(place / name) in str(refused.value) or str(place) + ": no manifest" in str(refused.value)
    if kind in ("cut", "short", "more", "empty") and name != "manifest.json":
        assert f"{(place / name).stat().st_size} bytes, the manifest says {len(original)}" in str(refused.value)


@given(
    damages=st.lists(
        st.tuples(
            st.sampled_from(KINDS), st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(0, 255)
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_is_caught_or_harmless(whole, content, damages):
    is_caught_or_harmless(whole, content, damages)
