"""Converting into a directory that holds converted images."""

import hashlib
import json

from converting import assert_rejected, convert

from data.manifest import MANIFEST, read_manifest


def test_a_second_call_writes_nothing_and_other_options_are_rejected(tmp_path):
    options = ("--source", "synthetic", "--per-class", 5, "--out", tmp_path / "out")
    assert convert(*options).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = convert(*options)
    assert (again.returncode, "already converted" in again.stdout) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert_rejected(convert(*options, "--shards", 5), "--shards was not given, now 5", "--overwrite")
    assert convert(*options, "--shards", 5, "--overwrite").returncode == 0
    assert len(read_manifest(tmp_path / "out").splits["train"]) == 5


def test_a_dataset_of_version_4_is_rejected_until_it_is_overwritten(tmp_path):
    """Version 4 had other names for the options in `source`, which would all appear to have changed."""
    options = ("--source", "synthetic", "--per-class", 5, "--out", tmp_path / "out")
    assert convert(*options).returncode == 0
    path = tmp_path / "out" / MANIFEST
    record = json.loads(path.read_text())
    del record["sha256"], record["source"]["source"]
    record["version"] = 4
    record["source"] |= {"kind": "synthetic", "convert_rgb": False}
    record["sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record))
    done = convert(*options)
    assert_rejected(done, "converted by an older version of this program (manifest format 4, ", "--overwrite")
    assert "--kind" not in done.stderr
    assert convert(*options, "--overwrite").returncode == 0
    assert "already converted" in convert(*options).stdout
