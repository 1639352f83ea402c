"""Many shards, and the limit of open files."""

import sys

import pytest
from converting import assert_rejected, convert
from images import convert_synthetic
from processes import PYTHON, run

SHARDS = 60


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    return convert_synthetic(tmp_path_factory.mktemp("many") / "out", 1, SHARDS)


def read_with_limit(out, soft, hard):
    program = (
        "import sys; from pathlib import Path\n"
        "from data.manifest import read_manifest\n"
        "from data.reading.mmap_shards import MappedShards\n"
        "out = Path(sys.argv[1]); manifest = read_manifest(out)\n"
        "try: print([len(MappedShards(out, manifest, split).labels) for split in ('train', 'val')])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = run(["prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c", program, str(out)])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.thorough
def test_a_soft_limit_that_is_too_low_is_raised(many_shards):
    assert read_with_limit(many_shards, 100, 1000) == "[100, 100]\n"


def test_a_hard_limit_that_is_too_low_is_reported_with_the_remedy(many_shards):
    message = read_with_limit(many_shards, 100, 150)
    assert message.startswith(f"DataError {many_shards}: {SHARDS} train shards: needs ")
    assert "the limit of this process is 150 (ulimit -Hn)" in message
    assert "with fewer --shards" in message


def test_too_many_workers_for_the_limit_are_rejected(tmp_path):
    options = ("--source", "synthetic", "--per-class", 1, "--out", tmp_path / "out", "--workers", 50)
    done = convert(*options, launcher=("prlimit", "--nofile=100:100", *PYTHON))
    assert_rejected(done, "--workers 50: needs ", "is 100 (ulimit -Hn)", "use fewer --workers")


@pytest.mark.thorough
def test_the_number_of_shards_is_not_limited_when_they_are_written(tmp_path):
    options = ("--source", "synthetic", "--per-class", 1, "--out", tmp_path / "out", "--workers", 2, "--shards", 25)
    done = convert(*options, launcher=("prlimit", "--nofile=60:60", *PYTHON))
    assert done.returncode == 0, done.stderr
