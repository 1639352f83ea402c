"""The manifest: what is read, and what is rejected."""

import json
import math

import pytest
from manifests import CONTENTS, VALID, entry_paths, manifest_of, read_error, resealed, valid_record, write_valid

from data.manifest import MANIFEST, VERSION, read_manifest


@pytest.fixture
def directory(tmp_path):
    """A directory with shards and their manifest."""
    return write_valid(tmp_path)


def test_a_manifest_is_read_as_it_was_written(directory):
    assert read_manifest(directory) == VALID
    assert [read_manifest(directory).samples(split) for split in ("train", "val")] == [7, 2]
    assert sorted(path.name for path in directory.iterdir()) == sorted([MANIFEST, *CONTENTS])


def test_a_directory_without_manifest_is_named(tmp_path):
    assert str(tmp_path) in read_error(tmp_path)
    assert "none" in read_error(tmp_path / "none")


def manifest_with(path, value):
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
    with manifest_of(manifest_with(path, value)) as directory:
        assert MANIFEST in read_error(directory)


@pytest.mark.parametrize("version", [1, VERSION - 1])
def test_an_older_version_is_rejected_with_the_remedy(version):
    with manifest_of(manifest_with(("version",), version)) as directory:
        assert read_error(directory) == (
            f"{directory} was converted by an older version of this program (manifest format {version}, this version "
            f"reads {VERSION}): convert the images again with python -m data.convert --overwrite, or delete "
            f"{directory} and run make again"
        )


def test_a_newer_version_is_rejected_with_the_remedy():
    with manifest_of(manifest_with(("version",), VERSION + 1)) as directory:
        message = read_error(directory)
        assert (
            f"{directory} was converted by a newer version of this program (manifest format {VERSION + 1}, " in message
        )
        assert "python -m data.convert --overwrite" in message


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


def test_an_altered_but_possible_value_is_detected(directory):
    record = valid_record()
    record["mean"][0] += 0.01
    (directory / MANIFEST).write_text(json.dumps(record))
    assert "altered since it was written" in read_error(directory)
