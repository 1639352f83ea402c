"""--overwrite deletes an existing run, and nothing else; what it keeps, and when."""

from functools import partial

import pytest
import yaml
from processes import TINY, run, trainer
from run_attempts import WRITTEN, files_in, start_attempt, write_files
from run_directory import rows

import regnet.runs.directory
from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.runs.atomic_write import AtomicWriter, DirectoryTakenOver
from regnet.runs.directory import RunDirectory

FOREIGN = ("notes.txt", "checkpoints/mine.pt", "report/notes.txt")


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    return partial(start_attempt, monkeypatch, tmp_path)


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(tmp_path, attempt, capsys):
    attempt()
    write_files(tmp_path / "tiny", WRITTEN + FOREIGN)
    assert {"config.yaml", "state.json", "events.jsonl", *WRITTEN} < files_in(tmp_path / "tiny")
    second = attempt("--overwrite", "--seed", "9")
    assert files_in(tmp_path / "tiny") == {".lock", "config.yaml", "state.json", "events.jsonl", *FOREIGN}
    assert (second.attempt, second.completed) == (1, (0, 0))
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "--overwrite: deleting result.json, checkpoints/, report/, wandb/, metrics.jsonl, events.jsonl, "
        f"evaluation.npz, config.yaml, state.json in {tmp_path / 'tiny'}"
    )


def test_overwrite_says_nothing_where_there_is_no_run(attempt, capsys):
    attempt("--overwrite")
    assert capsys.readouterr().out == ""


def test_the_configuration_of_the_run_does_not_overwrite_it(tmp_path, attempt):
    attempt("--overwrite")
    assert parse_config(["--config", str(tmp_path / "tiny" / "config.yaml")]).overwrite is False


def test_an_attempt_that_lost_its_lock_cannot_write_during_the_deletion(tmp_path, attempt, monkeypatch):
    """On a node that lost its network, or whose file system has no shared locks."""
    attempt()
    old = AtomicWriter(tmp_path / "tiny")
    rejected = []

    def delete(contents):
        with pytest.raises(DirectoryTakenOver):
            old.write(tmp_path / "tiny" / "state.json", b"{}")
        rejected.append(contents)

    monkeypatch.setattr(regnet.runs.directory, "delete", delete)
    attempt("--overwrite")
    assert len(rejected) == 1


def test_a_run_that_is_being_trained_is_not_overwritten(tmp_path, attempt, monkeypatch):
    monkeypatch.setattr(regnet.runs.directory, "_GRACE", 0)
    config = parse_config(["--config", str(TINY), "--runs_dir", str(tmp_path)])
    training = RunDirectory(config, "images")
    training.begin(0, 0, "1 x cpu")
    with pytest.raises(UsageError, match=r"another process is training this run\. Use another --name"):
        attempt("--overwrite", "--distributed.heartbeat_timeout", "0.3")
    assert {"config.yaml", "state.json"} < files_in(tmp_path / "tiny")
    training.close()


def test_a_trainer_with_overwrite_starts_over(shards, tmp_path):
    flags = ("--train.max_steps_per_epoch", "2")
    assert run(trainer(tmp_path, shards, *flags)).returncode == 0
    changed = (*flags, "--optim.lr", "0.01")
    rejected = run(trainer(tmp_path, shards, *changed))
    assert rejected.returncode == 2
    assert rejected.stderr.splitlines() == [
        f"error: {tmp_path}/tiny was created with a different configuration: optim.lr was 0.003, now 0.01. "
        "Use another --name, or --overwrite to start over"
    ]
    done = run(trainer(tmp_path, shards, "--overwrite", *changed))
    assert done.returncode == 0, done.stderr
    assert "--overwrite: deleting result.json, checkpoints/, metrics.jsonl, " in done.stdout
    assert "Resuming" not in done.stdout
    assert yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["optim"]["lr"] == 0.01
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == [1, 2, 3, 4]


def test_a_preempted_run_that_was_started_over_does_not_suggest_to_start_over_again(shards, tmp_path):
    done = run(trainer(tmp_path, shards, "--overwrite", "--train.max_minutes", "1e-9"))
    assert done.returncode == 75, done.stderr
    assert "Re-run the same command without --overwrite to resume." in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        ("--model.weights", "no/such/file.pt"),
        ("--distill.teacher", "no/such/file.pt"),
        ("--train.batch_size", "999", "--train.sync_batchnorm", "true"),
    ],
    ids=lambda flags: flags[0],
)
def test_an_attempt_that_cannot_start_deletes_nothing(shards, tmp_path, flags):
    assert run(trainer(tmp_path, shards, "--train.epochs", "1", "--schedule.warmup_epochs", "0")).returncode == 0
    before = {name: (tmp_path / "tiny" / name).read_bytes() for name in files_in(tmp_path / "tiny")}
    done = run(trainer(tmp_path, shards, "--overwrite", *flags, processes=2))
    assert done.returncode == 2, done.stdout + done.stderr
    assert {name: (tmp_path / "tiny" / name).read_bytes() for name in files_in(tmp_path / "tiny")} == before


def test_a_run_can_start_over_from_its_own_weights(shards, tmp_path):
    flags = ("--train.max_steps_per_epoch", "2")
    assert run(trainer(tmp_path, shards, *flags)).returncode == 0
    best = str(tmp_path / "tiny" / "checkpoints" / "best.pt")
    done = run(trainer(tmp_path, shards, *flags, "--overwrite", "--model.weights", best))
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(tmp_path / "tiny", "step")] == [1, 2, 3, 4]
