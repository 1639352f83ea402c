"""The manifest: what is rejected, and how shards are verified against it."""

import copy
import hashlib
import json
import math
import os
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.manifest import MANIFEST, VERSION, Manifest, Shard, Verify, read_manifest, sha256, verify, write_manifest

CONTENTS = {"train-0.beton": b"first shard", "train-1.beton": b"the second", "val-0.beton": b"third " * 1000}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def shard(name, first_id, samples):
    content = CONTENTS[name]
    return Shard(name, first_id, samples, len(content), hashlib.sha256(content).hexdigest(), "0" * 64)


VALID = Manifest(
    source={"source": "synthetic", "per_class": 3, "max_resolution": None},
    resolution=32,
    mixed=False,
    classes=("cat", "dog"),
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.2, 0.3),
    splits={
        "train": (shard("train-0.beton", 0, 4), shard("train-1.beton", 4, 3)),
        "val": (shard("val-0.beton", 0, 2),),
    },
    skipped=("broken.png",),
)


@pytest.fixture
def directory(tmp_path):
    """A directory with shards and their manifest."""
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    write_manifest(tmp_path, VALID)
    return tmp_path


@contextmanager
def manifest_of(text):
    """A directory with this manifest and the shards of the valid one."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in CONTENTS.items():
            (Path(folder) / name).write_bytes(content)
        (Path(folder) / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Path(folder)


def valid_record():
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), VALID)
        return json.loads((Path(folder) / MANIFEST).read_text())


def resealed(record):
    """The text of a record with a digest that matches it, to test the other checks."""
    body = {key: value for key, value in record.items() if key != "sha256"}
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": seal})


def assert_one_line(caught):
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


def read_error(directory):
    with pytest.raises(DataError) as caught:
        read_manifest(directory)
    return assert_one_line(caught)


def verify_error(directory, how=Verify.always):
    with pytest.raises(DataError) as caught:
        verify(directory, read_manifest(directory), how)
    return assert_one_line(caught)


def test_a_manifest_is_read_as_it_was_written(directory):
    assert read_manifest(directory) == VALID
    assert [read_manifest(directory).samples(split) for split in ("train", "val")] == [7, 2]
    assert sorted(path.name for path in directory.iterdir()) == sorted([MANIFEST, *CONTENTS])


def test_a_directory_without_manifest_is_named(tmp_path):
    assert str(tmp_path) in read_error(tmp_path)
    assert "none" in read_error(tmp_path / "none")


def changed(path, value):
    """The text of a valid manifest with the entry at this path replaced."""
    record = valid_record()
    entry = record
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return resealed(record)


IMPOSSIBLE = [
    (("format",), "other"),
    (("version",), "2"),
    (("version",), True),
    (("version",), float(VERSION)),
    (("version",), "2\n3"),
    (("resolution",), 0),
    (("resolution",), -32),
    (("resolution",), 32.0),
    (("resolution",), True),
    (("resolution",), None),
    (("classes",), ["cat"]),
    (("classes",), ["cat", "cat"]),
    (("classes",), "cat"),
    (("classes",), ["cat", 3]),
    (("mean",), [0.5, 0.4]),
    (("mean",), "123"),
    (("mean", 0), math.nan),
    (("mean", 0), -0.5),
    (("mean", 0), 124.0),
    (("mean", 0), 10**400),
    (("mean", 0), True),
    (("std", 1), 0),
    (("std", 1), math.nan),
    (("std", 1), -0.2),
    (("std", 1), 10**400),
    (("splits",), []),
    (("splits", "train"), []),
    (("splits", "val"), {}),
    (("splits", "train", 0, "samples"), 0),
    (("splits", "train", 0, "samples"), -4),
    (("splits", "train", 0, "samples"), 5),
    (("splits", "train", 0, "samples"), "4"),
    (("splits", "train", 0, "size"), -1),
    (("splits", "train", 0, "size"), 1.5),
    (("splits", "train", 1, "first_id"), 0),
    (("splits", "val", 0, "first_id"), 1),
    (("splits", "val", 0, "name"), "../val-0.beton"),
    (("splits", "val", 0, "name"), "/etc/passwd"),
    (("splits", "val", 0, "name"), ".."),
    (("splits", "val", 0, "name"), ""),
    (("splits", "val", 0, "name"), "a\0b"),
    (("splits", "val", 0, "name"), 3),
    (("splits", "val", 0, "sha256"), None),
    (("splits", "val", 0, "sha256"), 3),
    (("splits", "val", 0, "more"), 1),
    (("skipped",), "broken.png"),
    (("skipped",), [3]),
    (("skipped",), None),
    (("source",), None),
    (("source",), "imagefolder"),
    (("source",), []),
]


@pytest.mark.parametrize(("path", "value"), IMPOSSIBLE)
def test_an_impossible_value_is_rejected(path, value):
    with manifest_of(changed(path, value)) as directory:
        assert MANIFEST in read_error(directory)


@pytest.mark.parametrize("version", [1, VERSION - 1])
def test_an_older_version_is_rejected_with_the_remedy(version):
    with manifest_of(changed(("version",), version)) as directory:
        assert read_error(directory) == (
            f"{directory} was converted by an older version of this program (manifest format {version}, this version "
            f"reads {VERSION}): convert the images again with python -m data.convert --overwrite, or delete "
            f"{directory} and run make again"
        )


def test_a_newer_version_is_rejected_with_the_remedy():
    with manifest_of(changed(("version",), VERSION + 1)) as directory:
        message = read_error(directory)
        assert (
            f"{directory} was converted by a newer version of this program (manifest format {VERSION + 1}, " in message
        )
        assert "python -m data.convert --overwrite" in message


def entry_paths(tree, path=()):
    """The paths of all entries of nested dicts and lists."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from entry_paths(value, (*path, key))


REQUIRED = [path for path in entry_paths(valid_record()) if isinstance(path[-1], str) and path[:-1] != ("source",)]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_entry_is_rejected(path):
    record = valid_record()
    entry = record
    for key in path[:-1]:
        entry = entry[key]
    del entry[path[-1]]
    with manifest_of(resealed(record) if path != ("sha256",) else json.dumps(record)) as directory:
        assert MANIFEST in read_error(directory)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '"text"', "{}", '{"format": "regnet-shards"}', b"\xff\xfe", "[" * 100_000]
)
def test_text_that_is_not_a_manifest_is_rejected(text):
    with manifest_of(text) as directory:
        assert MANIFEST in read_error(directory)


def is_well_formed(manifest):
    def all_are(kind, values):
        return type(values) is tuple and all(type(value) is kind for value in values)

    shards = [shard for split in manifest.splits.values() for shard in split]
    return (
        type(manifest.source) is dict
        and type(manifest.resolution) is int
        and all_are(str, manifest.classes)
        and all_are(str, manifest.skipped)
        and all_are(float, manifest.mean)
        and all_are(float, manifest.std)
        and all(map(math.isfinite, (*manifest.mean, *manifest.std)))
        and list(manifest.splits) == ["train", "val"]
        and all(type(text) is str and text for shard in shards for text in (shard.name, shard.sha256))
        and all(type(number) is int for shard in shards for number in (shard.first_id, shard.samples, shard.size))
    )


def assert_rejected_or_valid(directory):
    """Reading raises a DataError or gives a valid manifest, which matches the files or fails verification."""
    try:
        manifest = read_manifest(directory)
    except DataError as error:
        message = str(error)
    else:
        assert is_well_formed(manifest)
        write_manifest(directory, manifest)
        assert read_manifest(directory) == manifest
        try:
            verify(directory, manifest, Verify.always)
            return
        except DataError as error:
            message = str(error)
    assert message.strip()
    assert "\n" not in message


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-10, 40),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([10**400, -(10**400), "train-0.beton", "..", ".", "", "a/b", "0.5", "\n"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def mutated_records(draw):
    """A valid manifest with a few entries deleted, replaced or negated."""
    record = copy.deepcopy(valid_record())
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(entry_paths(record))))
        entry = record
        for key in parents:
            entry = entry[key]
        change = draw(st.sampled_from(["delete", "replace", "negate"]))
        if change == "delete" and len(record) > 1:
            del entry[last]
        elif change == "negate" and isinstance(entry[last], int | float):
            entry[last] = -entry[last]
        else:
            entry[last] = draw(json_values)
    return record


@given(mutated_records())
@settings(deadline=None, max_examples=150)
def test_a_mutated_manifest_with_a_matching_digest_is_rejected_or_valid(record):
    with manifest_of(resealed(record)) as directory:
        assert_rejected_or_valid(directory)


@given(mutated_records())
@settings(deadline=None, max_examples=60)
def test_a_mutated_manifest_with_its_old_digest_is_rejected(record):
    with manifest_of(json.dumps(record)) as directory:
        if record != valid_record():
            read_error(directory)


def test_an_altered_but_possible_value_is_detected(directory):
    record = valid_record()
    record["mean"][0] += 0.01
    (directory / MANIFEST).write_text(json.dumps(record))
    assert "altered since it was written" in read_error(directory)


@given(json_values)
@settings(deadline=None, max_examples=60)
def test_other_json_is_rejected(document):
    with manifest_of(json.dumps(document)) as directory:
        read_error(directory)


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=60)
def test_a_truncated_manifest_is_rejected(fraction):
    text = json.dumps(valid_record())
    with manifest_of(text[: int(fraction * len(text))]) as directory:
        read_error(directory)


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_a_manifest_with_one_changed_byte_is_rejected_unless_its_content_is_equal(data):
    text = bytearray(json.dumps(valid_record()).encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] = data.draw(st.integers(0, 255))
    with manifest_of(bytes(text)) as directory, suppress(DataError):
        assert read_manifest(directory) == VALID


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
