"""--overwrite deletes an existing run, but never the progress of the job that it is given to; other versions' runs."""

import contextlib
import json
import os
import signal

import numpy as np
import pytest
import torch.distributed as dist
import yaml
from fork_server import ForkedCommand
from limits import LIMIT
from processes import TINY, TORCHRUN, kill_group, ranks_of, run, start, trainer, wait_until
from run_directory import rows, state

import regnet.runs.directory
from regnet.checkpoint.file import pack
from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.runs.atomic_write import AtomicWriter, DirectoryTakenOver
from regnet.runs.directory import RunDirectory
from regnet.runs.status import FORMAT

SLOW = ("--train.epochs", "400")
WRITTEN = (
    "checkpoints/step-000000011.pt",
    "checkpoints/best.pt",
    "checkpoints/step-000000022.damaged",
    "metrics.jsonl",
    "result.json",
    "evaluation.npz",
    "report/index.html",
    "report/confusion.png",
    "wandb/run-1/files/table.json",
)
FOREIGN = ("notes.txt", "checkpoints/mine.pt", "report/notes.txt")
LAUNCHERS = (
    "REGNET_LAUNCH",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
)


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Opens the run directory as an attempt with these flags and this environment does, and starts the attempt."""

    def start_attempt(*flags, start=True, **environment):
        for name in LAUNCHERS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = parse_config(["--config", str(TINY), "--runs_dir", str(tmp_path), *flags])
        directory = RunDirectory(config, "images")
        if start:
            directory.begin(*directory.completed, "1 x cpu")
        directory.close()
        return directory

    return start_attempt


def fill(run_dir, names):
    for name in names:
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(name)


def files_in(run_dir):
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}


def test_overwrite_deletes_what_a_run_wrote_and_nothing_else(tmp_path, attempt, capsys):
    attempt()
    fill(tmp_path / "tiny", WRITTEN + FOREIGN)
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


def launch(name):
    return {"REGNET_LAUNCH": name}


def torchrun(name, restarts):
    return {"TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_RESTART_COUNT": str(restarts)}


def slurm(job, restarts):
    return {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)}


RESTARTS = {
    "the next attempt of the job scripts": (launch("7.0.1"), launch("7.0.2")),
    "a requeued job script": (launch("7.0.1"), launch("7.1.1")),
    "torchrun after a failure": (torchrun("a", 0), torchrun("a", 1)),
    "torchrun after nodes have joined or left": (torchrun("a", 0), torchrun("a", 0)),
    "torchrun with a static rendezvous": (torchrun("none", 0), torchrun("none", 1)),
    "a requeued SLURM job": (slurm("5", 0), slurm("5", 1)),
    "torchrun in a requeued SLURM job": (slurm("5", 0) | torchrun("a", 0), slurm("5", 1) | torchrun("b", 0)),
}
NEW_JOBS = {
    "the same command again": ({}, {}),
    "another job script": (launch("7.0.1"), launch("8.0.1")),
    "the first job script": ({}, launch("7.0.1")),
    "a shell after a job script": (launch("7.0.1"), {}),
    "torchrun again, which failed before it opened the run": (torchrun("a", 0), torchrun("b", 1)),
    "torchrun again with a static rendezvous": (torchrun("none", 0), torchrun("none", 0)),
    "srun twice in one allocation": (slurm("5", 0), slurm("5", 0)),
    "torchrun twice in one allocation": (slurm("5", 0) | torchrun("a", 0), slurm("5", 0) | torchrun("b", 0)),
    "another SLURM job": (slurm("5", 0), slurm("6", 1)),
}


@pytest.mark.parametrize("case", RESTARTS)
def test_a_restart_of_the_same_job_keeps_its_progress(tmp_path, attempt, capsys, case):
    before, now = RESTARTS[case]
    attempt("--overwrite", **before)
    fill(tmp_path / "tiny", WRITTEN[:1])
    assert attempt("--overwrite", **now).attempt == 2
    assert WRITTEN[0] in files_in(tmp_path / "tiny")
    kept = f"--overwrite: {tmp_path / 'tiny'} was written by an earlier attempt of this job and is kept ("
    assert capsys.readouterr().out.startswith(kept)
    assert attempt("--overwrite", **now).attempt == 3, "the second attempt is of the job as well"


@pytest.mark.parametrize("case", NEW_JOBS)
def test_a_new_job_starts_over(tmp_path, attempt, case):
    before, now = NEW_JOBS[case]
    attempt("--overwrite", **before)
    fill(tmp_path / "tiny", WRITTEN[:1])
    assert attempt("--overwrite", **now).attempt == 1
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")


def torchrun_store(store):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    return torchrun("fixed", 0) | address | {"TORCHELASTIC_USE_AGENT_STORE": "True"}


def test_launches_of_torchrun_with_the_same_rdzv_id_are_different_jobs(tmp_path, attempt):
    """Each launch hosts a store, which its restarts share."""
    first, second = (dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(2))
    attempt("--overwrite", **torchrun_store(first))
    fill(tmp_path / "tiny", WRITTEN[:1])
    assert attempt("--overwrite", **torchrun_store(first)).attempt == 2, "after nodes have joined or left"
    assert WRITTEN[0] in files_in(tmp_path / "tiny")
    assert attempt("--overwrite", **torchrun_store(second)).attempt == 1
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")


def test_a_deletion_that_was_killed_is_completed_by_the_next_attempt_of_the_job(tmp_path, attempt):
    fill(tmp_path / "tiny", WRITTEN)
    attempt("--overwrite", **launch("7.0.2"))
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")


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


def test_a_trainer_starts_over(shards, tmp_path):
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


def _has_saved(run_dir):
    """Whether the new run, unlike the one that it replaces, has a checkpoint of its first epochs."""
    with contextlib.suppress(FileNotFoundError):
        return "seed: 3" in (run_dir / "config.yaml").read_text() and state(run_dir)["step"] > 0
    return False


@pytest.mark.thorough
def test_ranks_that_torchrun_restarts_resume_the_run_that_they_have_started_over(shards, tmp_path):
    """The earlier run has another seed."""
    tiny = tmp_path / "tiny"
    assert run(trainer(tmp_path, shards, "--train.epochs", "8", "--seed", "9")).returncode == 0
    flags = ("--train.epochs", "8", "--checkpoint.every_steps", "3", "--tracking.log_every", "1", "--overwrite")
    launcher = (*TORCHRUN, "--max-restarts=1", "--monitor-interval=1")
    process = start(trainer(tmp_path, shards, *flags, processes=2, launcher=launcher))
    try:
        wait_until(lambda: _has_saved(tiny))
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        out, err = process.communicate(timeout=LIMIT)
    finally:
        kill_group(process)
    assert process.returncode == 0, err
    assert out.count("--overwrite: deleting") == 1
    assert "was written by an earlier attempt of this job and is kept" in out
    assert state(tiny)["attempt"] == 2
    assert state(tiny)["resumed_from_step"] >= 3
    assert [row["step"] for row in rows(tiny, "step")] == list(range(1, 89))
    assert yaml.safe_load((tiny / "config.yaml").read_text())["seed"] == 3


def old_run(run_dir):
    """A run as versions before format 2 wrote it."""
    (run_dir / "checkpoints").mkdir(parents=True)
    record = {"state": "finished", "epoch": 1, "step": 11, "began": 0, "attempt": 1, "fruitless": 0, "epochs": 1}
    record |= {"data": "0123456789abcdef", "reason": "1 epochs done", "wandb_id": "01234567", "launch": ""}
    (run_dir / "state.json").write_text(json.dumps(record))
    (run_dir / "config.yaml").write_text("name: tiny\nmodel:\n  form: paper\n  slope: 8\n")
    (run_dir / "metrics.jsonl").write_text('{"kind": "epoch", "epoch": 1, "val_accuracy": 0.5}\n')
    (run_dir / "events.jsonl").write_text('{"at": "2026-01-01T00:00:00+00:00", "what": "began"}\n')
    np.savez(run_dir / "evaluation.npz", taken=np.zeros(1))
    (run_dir / "checkpoints" / "step-000000011.pt").write_bytes(pack({"model": {}}))


def test_a_run_of_an_older_version_is_rejected_in_one_line_by_every_command(shards, tmp_path):
    old_run(tmp_path / "tiny")
    before = {path: path.read_bytes() for path in (tmp_path / "tiny").rglob("*") if path.is_file()}
    line = f"{tmp_path}/tiny was written by an older version of this program (format 1; this version reads {FORMAT})"
    done = run(trainer(tmp_path, shards))
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [f"error: {line}. Use another --name, or --overwrite to start over"],
    )
    done = run(ForkedCommand(["-m", "regnet.report", str(tmp_path / "tiny")]))
    assert (done.returncode, done.stderr.splitlines()) == (2, [f"error: {line}"])
    done = run(ForkedCommand(["-m", "regnet.runs", str(tmp_path)]))
    assert (done.returncode, done.stderr.splitlines()) == (0, [f"skipped: {line}"])
    flags = ["--config", str(TINY), "--runs_dir", str(tmp_path)]
    done = run(ForkedCommand(["-m", "regnet.relaunch", "--launch", "", "--", *flags]))
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1), done.stderr
    assert {path: path.read_bytes() for path in before} == before
    done = run(trainer(tmp_path, shards, "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert state(tmp_path / "tiny")["format"] == FORMAT


def test_a_run_of_a_newer_version_is_rejected(tmp_path, attempt):
    attempt()
    path = tmp_path / "tiny" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    with pytest.raises(UsageError, match=rf"a newer version of this program \(format {FORMAT + 1}; this version reads"):
        attempt()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--resume", "never"),
            "already contains a run. Use another --name, --overwrite to delete it and start over, ",
        ),
        (
            ("--distill.teacher", "some.pt", "--augment.flip", "false"),
            "was created with a different configuration: augment.flip was true, now false; "
            "distill.teacher was '', now some.pt. Use another --name, or --overwrite to start over",
        ),
        (
            ("--train.epochs", "5"),
            "was created with a different number of epochs: train.epochs was 2, now 5, and the learning rates of "
            "schedule.name cosine depend on it. Use another --name, or --overwrite to start over",
        ),
    ],
)
def test_messages_name_what_is_different_and_every_remedy(tmp_path, attempt, flags, words):
    attempt()
    fill(tmp_path / "tiny", WRITTEN[:1])
    with pytest.raises(UsageError) as rejected:
        attempt(*flags)
    assert str(rejected.value).startswith(f"{tmp_path}/tiny {words}")


def test_a_longer_schedule_can_start_from_the_best_weights(tmp_path, attempt):
    attempt()
    fill(tmp_path / "tiny", ["checkpoints/best.pt"])
    best = tmp_path / "tiny" / "checkpoints" / "best.pt"
    with pytest.raises(
        UsageError, match=f"Use another --name with --model.weights {best} to continue from its weights, or"
    ):
        attempt("--train.epochs", "5")


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


def test_a_restart_keeps_a_run_whose_state_is_damaged(tmp_path, attempt):
    attempt("--overwrite", **launch("7.0.1"))
    fill(tmp_path / "tiny", WRITTEN)
    (tmp_path / "tiny" / "state.json").write_text("{")
    with pytest.raises(UsageError, match="resume it without --overwrite, or use another --name"):
        attempt("--overwrite", **launch("7.0.2"))
    assert set(WRITTEN) <= files_in(tmp_path / "tiny")


def test_a_restart_resumes_although_resume_is_never(tmp_path, attempt):
    attempt("--overwrite", "--resume", "never", **launch("7.0.1"))
    assert attempt("--overwrite", "--resume", "never", **launch("7.0.2")).attempt == 2


def test_a_changed_number_of_epochs_is_named_although_the_warmup_was_adapted_to_it(tmp_path, attempt):
    attempt("--schedule.warmup_epochs", "5", "--train.epochs", "3")
    fill(tmp_path / "tiny", WRITTEN[:1])
    with pytest.raises(UsageError, match=r"train\.epochs was 3, now 10"):
        attempt("--schedule.warmup_epochs", "5", "--train.epochs", "10")
