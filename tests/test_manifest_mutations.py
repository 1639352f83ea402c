"""Random changes of a manifest are detected, or change nothing."""

import copy
import json
import math
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from manifests import VALID, entry_paths, manifest_of, read_error, resealed, valid_record
from thoroughness import examples

from data.errors import DataError
from data.manifest import Verify, read_manifest, verify, write_manifest


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
@examples(150)
def test_a_mutated_manifest_with_a_matching_digest_is_rejected_or_valid(record):
    with manifest_of(resealed(record)) as directory:
        assert_rejected_or_valid(directory)


@given(mutated_records())
@examples(60)
def test_a_mutated_manifest_with_its_old_digest_is_rejected(record):
    with manifest_of(json.dumps(record)) as directory:
        if record != valid_record():
            read_error(directory)


@given(json_values)
@examples(60)
def test_json_that_is_not_a_manifest_is_rejected(document):
    with manifest_of(json.dumps(document)) as directory:
        read_error(directory)


@given(st.floats(0, 1, exclude_max=True))
@examples(60)
def test_a_truncated_manifest_is_rejected(fraction):
    text = json.dumps(valid_record())
    with manifest_of(text[: int(fraction * len(text))]) as directory:
        read_error(directory)


@given(st.data())
@examples(80)
def test_a_manifest_with_one_changed_byte_is_rejected_unless_its_content_is_equal(data):
    text = bytearray(json.dumps(valid_record()).encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] = data.draw(st.integers(0, 255))
    with manifest_of(bytes(text)) as directory, suppress(DataError):
        assert read_manifest(directory) == VALID
