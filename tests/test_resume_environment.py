"""A resume on other threads, another device or another torch says so: its results are no longer bit-identical."""

import json

import pytest
from processes import PYTHON, run, trainer
from run_directory import rows, state

from regnet.checkpoint.file import load, pack
from regnet.checkpoint.manager import CheckpointManager
from regnet.training.environment import describe_changes

FLAGS = ("--checkpoint.every_steps", "3", "--train.max_minutes", "1e-9")
UNCHANGED = {"torch": "2.13.0+cpu", "device": "cpu (AVX2)", "threads": 2}


def not_bit_identical_lines(done):
    return [line for line in done.stdout.splitlines() if line.startswith("Not bit-identical")]


def test_a_resume_with_another_number_of_threads_says_so_once(shards, tmp_path):
    """Forked processes have one thread."""
    assert run(trainer(tmp_path, shards, *FLAGS)).returncode == 75
    other = run(trainer(tmp_path, shards, *FLAGS, launcher=PYTHON), OMP_NUM_THREADS="2")
    (line,) = not_bit_identical_lines(other)
    assert line.endswith("threads per process was 1, now 2 (OMP_NUM_THREADS)")
    assert not_bit_identical_lines(run(trainer(tmp_path, shards, *FLAGS)))[0].endswith("was 2, now 1 (OMP_NUM_THREADS)")
    assert not_bit_identical_lines(run(trainer(tmp_path, shards, *FLAGS))) == [], "it was said when it changed"
    events = [json.loads(text) for text in (tmp_path / "tiny" / "events.jsonl").read_text().splitlines()]
    assert [event["detail"] for event in events if event["kind"] == "started"] == [
        "1 x cpu",
        "1 x cpu; threads per process was 1, now 2 (OMP_NUM_THREADS)",
        "1 x cpu; threads per process was 2, now 1 (OMP_NUM_THREADS)",
        "1 x cpu",
    ]


def test_a_resume_on_another_number_of_processes_says_so(shards, tmp_path):
    assert run(trainer(tmp_path, shards, *FLAGS)).returncode == 75
    done = run(trainer(tmp_path, shards, *FLAGS, processes=2))
    assert done.returncode == 75, done.stderr
    (line,) = not_bit_identical_lines(done)
    assert line.endswith("processes was 1, now 2")


def test_a_checkpoint_that_does_not_name_its_environment_is_resumed(shards, tmp_path):
    """The field is optional."""
    assert run(trainer(tmp_path, shards, *FLAGS)).returncode == 75
    (path,) = CheckpointManager(tmp_path / "tiny" / "checkpoints", 9).paths()
    saved = load(path)
    assert [*saved["environment"][0]] == ["torch", "device", "threads"]
    del saved["environment"]
    path.write_bytes(pack(saved))
    done = run(trainer(tmp_path, shards))
    assert (done.returncode, not_bit_identical_lines(done)) == (0, []), done.stderr
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == list(range(1, 23))
    assert state(tmp_path / "tiny")["state"] == "finished"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([UNCHANGED], [UNCHANGED], ""),
        (None, [UNCHANGED], ""),
        ([UNCHANGED], [{**UNCHANGED, "torch": "2.14.0"}], "torch was 2.13.0+cpu, now 2.14.0"),
        (
            [UNCHANGED] * 2,
            [{"torch": "2.13.0+cu130", "device": "NVIDIA H100"}],
            "processes was 2, now 1; torch was 2.13.0+cpu, now 2.13.0+cu130; device was cpu (AVX2), now NVIDIA H100",
        ),
        (
            [UNCHANGED] * 2,
            [UNCHANGED, {**UNCHANGED, "threads": 1}],
            "threads per process was 2, now 2 and 1 (OMP_NUM_THREADS)",
        ),
    ],
)
def test_changes_are_named_with_both_values(before, now, expected):
    assert describe_changes(before, now) == expected
