"""Which checkpoints of a run are kept, resumed from and restored as the best."""

import hashlib

import pytest

from regnet.checkpoint.file import MAGIC, VERSION, CheckpointError, load, pack
from regnet.checkpoint.manager import CheckpointManager
from regnet.runs.atomic_write import AtomicWriter

START_OVER = "Use another --name, or --overwrite to start over"


def checkpoint_contents(step, best_step=-1, best_top1=-1.0):
    return {"progress": {"global_step": step, "best_step": best_step, "best_top1": best_top1}}


@pytest.fixture
def writer(tmp_path):
    return AtomicWriter(tmp_path)


@pytest.fixture
def checkpoints(tmp_path):
    return CheckpointManager(tmp_path / "checkpoints", keep_last=2)


def fail_with(message):
    pytest.fail(message)


def with_version(version):
    """A checkpoint as another version of the program writes it."""
    marked = pack(checkpoint_contents(9))[:-44] + MAGIC + version.to_bytes(4, "little")
    return marked + hashlib.sha256(marked).digest()


def checkpoint_names(checkpoints):
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_the_last_checkpoints_and_the_best_one_are_kept(checkpoints, writer):
    for step in (1, 5, 20, 300):
        checkpoints.save(writer, step, checkpoint_contents(step), is_best=step == 5)
    assert checkpoint_names(checkpoints) == ["best.pt", "step-000000020.pt", "step-000000300.pt"]
    assert checkpoints.paths() == [checkpoints.path(20), checkpoints.path(300)]
    assert load(checkpoints.path(20)) == checkpoint_contents(20)
    assert load(checkpoints.best) == checkpoint_contents(5)


def test_checkpoints_of_later_steps_do_not_count_as_the_last_ones(checkpoints, writer):
    """A run that resumed from an older checkpoint may find the corrupt ones of its earlier attempt."""
    for step in (50, 60, 7, 8, 9):
        checkpoints.save(writer, step, checkpoint_contents(step), is_best=False)
    assert checkpoints.paths() == [checkpoints.path(step) for step in (8, 9, 50, 60)]


def test_files_of_other_names_are_no_checkpoints(checkpoints, writer):
    checkpoints.save(writer, 1, checkpoint_contents(1), is_best=True)
    for name in ("step-2.pt", "step-0000000003.pt", "step-000000004.pt.pt", "step-00000000x.pt", "step-000000005.PT"):
        (checkpoints.directory / name).touch()
    assert checkpoints.paths() == [checkpoints.path(1)]


def test_without_checkpoints_there_is_nothing_to_resume_from(checkpoints):
    assert checkpoints.newest(fail_with) is None
    checkpoints.directory.mkdir()
    assert checkpoints.newest(fail_with) is None


@pytest.mark.parametrize(("best", "newest"), [(None, 20), (5, 20), (20, 20), (30, 30)])
def test_the_newest_checkpoint_may_be_the_best_one(checkpoints, writer, best, newest):
    for step in (5, 20):
        checkpoints.save(writer, step, checkpoint_contents(step), is_best=False)
    if best is not None:
        checkpoints.best.write_bytes(pack(checkpoint_contents(best)))
    expected = checkpoints.best if newest == 30 else checkpoints.path(newest)
    assert checkpoints.newest(fail_with) == (expected, checkpoint_contents(newest))


def test_the_best_checkpoint_alone_is_resumed_from(checkpoints, writer):
    writer.write(checkpoints.best, pack(checkpoint_contents(7)))
    assert checkpoints.newest(fail_with) == (checkpoints.best, checkpoint_contents(7))


def test_corrupt_checkpoints_are_reported_and_renamed_until_a_valid_one_is_found(checkpoints, writer):
    for step in (1, 2):
        checkpoints.save(writer, step, checkpoint_contents(step), is_best=False)
    for damaged in (checkpoints.path(3), checkpoints.path(4), checkpoints.best):
        damaged.write_bytes(b"damaged")
    messages = []
    assert checkpoints.newest(messages.append) == (checkpoints.path(2), checkpoint_contents(2))
    found = sorted(message.split(": truncated")[0] for message in messages)
    assert found == sorted(map(str, (checkpoints.path(3), checkpoints.path(4), checkpoints.best)))
    assert checkpoint_names(checkpoints) == [
        "best.damaged",
        "step-000000001.pt",
        "step-000000002.pt",
        "step-000000003.damaged",
        "step-000000004.damaged",
    ]


def test_a_run_with_corrupt_checkpoints_only_is_not_started_over(checkpoints):
    checkpoints.directory.mkdir()
    checkpoints.path(3).write_bytes(b"damaged")
    messages = []
    for _ in range(2):  # the second time, the file has its new name
        with pytest.raises(CheckpointError) as raised:
            checkpoints.newest(messages.append)
        assert str(raised.value) == f"{checkpoints.directory}: none of the checkpoints is valid. {START_OVER}"
    assert len(messages) == 1


@pytest.mark.parametrize(("version", "age"), [(VERSION - 1, "an older"), (VERSION + 1, "a newer")])
@pytest.mark.parametrize("is_best", [False, True])
def test_a_checkpoint_of_another_version_is_not_skipped(checkpoints, writer, version, age, is_best):
    checkpoints.save(writer, 1, checkpoint_contents(1), is_best=False)
    other = checkpoints.best if is_best else checkpoints.path(9)
    other.write_bytes(with_version(version))
    with pytest.raises(CheckpointError) as raised:
        checkpoints.newest(fail_with)
    message = f"{other}: written by {age} version of this program (checkpoint format {version}; this version reads "
    assert str(raised.value) == f"{message}{VERSION}). {START_OVER}"
    assert other.read_bytes() == with_version(version)


def test_a_checkpoint_that_says_no_progress_is_rejected(checkpoints, writer):
    writer.write(checkpoints.path(1), pack({"model": {}}))
    with pytest.raises(CheckpointError) as raised:
        checkpoints.newest(fail_with)
    assert str(raised.value).startswith(f"{checkpoints.path(1)}: incomplete checkpoint ('progress' is missing)")


BEST = checkpoint_contents(20, best_step=20, best_top1=0.5)


@pytest.mark.parametrize(
    "other",
    [
        None,
        b"damaged",
        pack({"model": {}, **checkpoint_contents(21, best_step=20, best_top1=0.5)}),
        pack(checkpoint_contents(20, best_step=19, best_top1=0.5)),
        pack(checkpoint_contents(20, best_step=20, best_top1=0.25)),
    ],
    ids=["missing", "damaged", "of a later step", "of another best step", "of another accuracy"],
)
def test_the_best_epoch_is_found_in_either_of_two_files(checkpoints, writer, other):
    progress = checkpoint_contents(33, best_step=20, best_top1=0.5)["progress"]
    for place, elsewhere in ((checkpoints.best, checkpoints.path(20)), (checkpoints.path(20), checkpoints.best)):
        writer.write(place, pack(BEST))
        elsewhere.unlink(missing_ok=True)
        if other is not None:
            elsewhere.write_bytes(other)
        assert checkpoints.find_best(progress) == place
        place.unlink()
        assert checkpoints.find_best(progress) is None


def test_best_pt_is_preferred_to_a_numbered_copy(checkpoints, writer):
    checkpoints.save(writer, 20, BEST, is_best=True)
    assert checkpoints.find_best(BEST["progress"]) == checkpoints.best
