"""FFCV, numba and OpenCV are imported when an image is decoded, and not before."""

import json

import numpy as np
import pytest
from converting import convert
from ffcv.reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from images import photo_folders
from processes import PYTHON, run, trainer
from thoroughness import parametrize_some

from commandline.environment import INSTALL
from data.errors import DataError
from data.reading.shard_tables import IMAGE_MODES, read_tables

# Trains, and prints which of them the run has imported, and which the module that decodes imports.
PROGRAM = """
import json, sys
import train_ddp
imported = lambda: sorted({"numba", "cv2", "ffcv"} & set(sys.modules))
code = train_ddp.main(sys.argv[1:])
trained = imported()
import data.reading.ffcv_pipeline
print(json.dumps([code, trained, imported()]))
"""


def test_a_run_on_raw_cached_images_imports_no_decoder(shards, tmp_path):
    flags = ("--data.cache", "device", "--train.epochs", "1", "--train.max_steps_per_epoch", "2")
    done = run(trainer(tmp_path, shards, *flags, launcher=PYTHON, script=("-c", PROGRAM)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, [], ["cv2", "ffcv", "numba"]]


REASON = "libopencv_core.so.406: cannot open shared object file"
MESSAGE = f"error: FFCV or a library that it needs cannot be imported ({REASON}): {INSTALL}\n"


def without(library, tmp_path):
    """The environment of a process for which a system library is missing that this library needs."""
    package = tmp_path / "modules" / library
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise OSError({REASON!r})")
    return {"PYTHONPATH": str(package.parent)}


@parametrize_some("library", ["ffcv", "numba", "cv2"])
def test_a_decoder_that_cannot_be_imported_is_reported(shards, tmp_path, library):
    broken = without(library, tmp_path)
    train = trainer(tmp_path / "runs", shards, "--data.cache", "none", launcher=PYTHON)
    convert = [*PYTHON, "-m", "data.convert", "--source", "synthetic", "--out", str(tmp_path / "out")]
    for command in (train, convert):
        done = run(command, **broken)
        assert (done.returncode, done.stderr) == (2, MESSAGE)
    doctor = run([*PYTHON, "-m", "regnet.doctor", "--data.shards", str(shards)], **broken)
    assert doctor.returncode == 1
    assert f"FAIL FFCV cannot be imported: {REASON} fix: {INSTALL}" in " ".join(doctor.stdout.split())


def test_what_does_not_decode_works_without_ffcv(shards, tmp_path):
    broken = without("ffcv", tmp_path)
    cached = trainer(tmp_path / "runs", shards, "--data.cache", "device", "--train.epochs", "1", launcher=PYTHON)
    converted_before = [*PYTHON, "-m", "data.convert", "--source", "synthetic", "--out", str(shards)]
    converted_before += ["--per-class", "10", "--shards", "3"]
    for command in (cached, converted_before):
        done = run(command, **broken)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variables", [{}, {"NUMBA_NUM_THREADS": "3"}], ids=str)
def test_the_limit_of_decoding_threads_is_numbas(variables):
    program = "from data.reading.shard_reader import max_workers; ours = max_workers(); import numba; "
    program += "print(ours == numba.config.NUMBA_NUM_THREADS)"
    assert run([*PYTHON, "-c", program], **variables).stdout == "True\n"


@pytest.fixture(scope="module", params=["raw", "jpg", "mixed"])
def shard(request, tmp_path_factory):
    """A shard of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    photos = photo_folders(folder / "photos", train=2, val=1)
    size = ("--longest-side", 100) if request.param == "mixed" else ("--resolution", 40, "--resize")
    mode = ("--mode", "jpg") if request.param == "jpg" else ("--mode", "raw")
    done = convert("--source", "folder", "--root", photos, "--out", folder / "out", "--shards", 1, *size, *mode)
    assert done.returncode == 0, done.stderr
    return next((folder / "out").glob("train*"))


def test_tables_are_those_that_ffcv_reads(shard):
    tables, theirs = read_tables(shard), Reader(str(shard))
    assert tables.samples.dtype == theirs.metadata.dtype
    assert len(tables.samples) == theirs.num_samples > 1
    assert np.array_equal(tables.samples, theirs.metadata)
    assert tables.allocations.dtype == theirs.alloc_table.dtype
    assert np.array_equal(tables.allocations, theirs.alloc_table)


def test_image_modes_are_those_of_ffcv():
    from ffcv.fields.rgb_image import IMAGE_MODES as THEIRS

    assert dict(THEIRS) == IMAGE_MODES


@given(content=st.binary(max_size=3500))
def test_a_file_that_is_not_of_ffcv_is_rejected(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "other.beton"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not an FFCV file"):
        read_tables(path)


@pytest.mark.parametrize(("offset", "value"), [(0, 3), (2, 2), (24, 0)], ids=["version", "fields", "type of a field"])
def test_files_of_other_versions_or_fields_are_rejected(shard, tmp_path, offset, value):
    content = bytearray(shard.read_bytes())
    content[offset] = value
    (tmp_path / "other.beton").write_bytes(content)
    with pytest.raises(DataError, match="not an FFCV file"):
        read_tables(tmp_path / "other.beton")
