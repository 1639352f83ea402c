"""--overwrite never deletes the progress of the job that it is given to, and tells its restarts from new jobs."""

import contextlib
import os
import signal
from functools import partial

import pytest
import torch.distributed as dist
import yaml
from limits import LIMIT
from processes import TORCHRUN, faulty_trainer, kill_group, ranks_of, run, start, trainer, wait_until
from run_attempts import WRITTEN, files_in, start_attempt, write_files
from run_directory import rows, state

from regnet.errors import UsageError


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    return partial(start_attempt, monkeypatch, tmp_path)


def job_script(name):
    return {"REGNET_LAUNCH": name}


def torchrun(name, restarts):
    return {"TORCHELASTIC_RUN_ID": name, "TORCHELASTIC_RESTART_COUNT": str(restarts)}


def slurm(job, restarts):
    return {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)}


RESTARTS = {
    "the next attempt of the job scripts": (job_script("7.0.1"), job_script("7.0.2")),
    "a requeued job script": (job_script("7.0.1"), job_script("7.1.1")),
    "torchrun after a failure": (torchrun("a", 0), torchrun("a", 1)),
    "torchrun after nodes have joined or left": (torchrun("a", 0), torchrun("a", 0)),
    "torchrun with a static rendezvous": (torchrun("none", 0), torchrun("none", 1)),
    "a requeued SLURM job": (slurm("5", 0), slurm("5", 1)),
    "torchrun in a requeued SLURM job": (slurm("5", 0) | torchrun("a", 0), slurm("5", 1) | torchrun("b", 0)),
}
NEW_JOBS = {
    "the same command again": ({}, {}),
    "another job script": (job_script("7.0.1"), job_script("8.0.1")),
    "the first job script": ({}, job_script("7.0.1")),
    "a shell after a job script": (job_script("7.0.1"), {}),
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
    write_files(tmp_path / "tiny", WRITTEN[:1])
    assert attempt("--overwrite", **now).attempt == 2
    assert WRITTEN[0] in files_in(tmp_path / "tiny")
    kept = f"--overwrite: {tmp_path / 'tiny'} was written by an earlier attempt of this job and is kept ("
    assert capsys.readouterr().out.startswith(kept)
    assert attempt("--overwrite", **now).attempt == 3, "the second attempt is of the job as well"


@pytest.mark.parametrize("case", NEW_JOBS)
def test_a_new_job_starts_over(tmp_path, attempt, case):
    before, now = NEW_JOBS[case]
    attempt("--overwrite", **before)
    write_files(tmp_path / "tiny", WRITTEN[:1])
    assert attempt("--overwrite", **now).attempt == 1
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")


def torchrun_store(store):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    return torchrun("fixed", 0) | address | {"TORCHELASTIC_USE_AGENT_STORE": "True"}


def test_launches_of_torchrun_with_the_same_rdzv_id_are_different_jobs(tmp_path, attempt):
    """Each launch hosts a store, which its restarts share."""
    first, second = (dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(2))
    attempt("--overwrite", **torchrun_store(first))
    write_files(tmp_path / "tiny", WRITTEN[:1])
    assert attempt("--overwrite", **torchrun_store(first)).attempt == 2, "after nodes have joined or left"
    assert WRITTEN[0] in files_in(tmp_path / "tiny")
    assert attempt("--overwrite", **torchrun_store(second)).attempt == 1
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")


def test_a_deletion_that_was_killed_is_completed_by_the_next_attempt_of_the_job(tmp_path, attempt):
    write_files(tmp_path / "tiny", WRITTEN)
    attempt("--overwrite", **job_script("7.0.2"))
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")


def has_checkpoint_of_new_run(run_dir):
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
    process = start(faulty_trainer(tmp_path, shards, "never_finishes", *flags, processes=2, launcher=launcher))
    try:
        wait_until(lambda: has_checkpoint_of_new_run(tiny))
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


def test_a_restart_keeps_a_run_whose_state_is_damaged(tmp_path, attempt):
    attempt("--overwrite", **job_script("7.0.1"))
    write_files(tmp_path / "tiny", WRITTEN)
    (tmp_path / "tiny" / "state.json").write_text("{")
    with pytest.raises(UsageError, match="resume it without --overwrite, or use another --name"):
        attempt("--overwrite", **job_script("7.0.2"))
    assert set(WRITTEN) <= files_in(tmp_path / "tiny")


def test_a_restart_resumes_although_resume_is_never(tmp_path, attempt):
    attempt("--overwrite", "--resume", "never", **job_script("7.0.1"))
    assert attempt("--overwrite", "--resume", "never", **job_script("7.0.2")).attempt == 2


def test_outside_of_jobs_a_run_whose_state_is_damaged_is_started_over(tmp_path, attempt):
    attempt()
    write_files(tmp_path / "tiny", WRITTEN)
    (tmp_path / "tiny" / "state.json").write_text("{")
    assert attempt("--overwrite").attempt == 1
    assert WRITTEN[0] not in files_in(tmp_path / "tiny")
