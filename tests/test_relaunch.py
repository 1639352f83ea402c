"""python -m regnet.relaunch: checks options before the first attempt, and says how another job resumes the run."""

import pytest
from processes import TINY

from regnet.config.parser import parse_config
from regnet.relaunch import decide, main
from regnet.runs.directory import RunDirectory
from regnet.runs.status import RunState, Status


@pytest.fixture
def relaunch(tmp_path, capsys):
    """Runs the command for a run in tmp_path; returns the exit code and the lines printed."""

    def relaunch(*flags, launch=None):
        capsys.readouterr()
        what = ["--check"] if launch is None else ["--launch", launch]
        code = main([*what, "--", "--config", str(TINY), "--runs_dir", str(tmp_path), *flags])
        return code, capsys.readouterr().out.splitlines()

    return relaunch


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """A failed attempt of the run, as the job scripts start it."""

    def attempt(*flags, launch):
        monkeypatch.setenv("REGNET_LAUNCH", launch)
        directory = RunDirectory(parse_config(["--config", str(TINY), "--runs_dir", str(tmp_path), *flags]), "images")
        directory.begin(0, 0, "1 x cpu")
        directory.close()

    return attempt


def test_invalid_options_are_refused_before_the_first_attempt(relaunch):
    assert relaunch() == (0, [])
    code, (line,) = relaunch("--train.epoch", "3")
    assert code == 2
    assert line.startswith("error: unknown option --train.epoch (did you mean train.epochs?)")


def test_a_run_that_overwrites_is_resumed_as_another_job_without_overwriting(relaunch, attempt, tmp_path):
    """Wherever the option is set, but only once the job has opened the run: then it has overwritten it."""
    in_a_file = tmp_path / "overwrite.yaml"
    in_a_file.write_text("overwrite: true\n")
    for job, flags in enumerate((["--overwrite"], ["--overwrite=true"], ["--config", str(in_a_file)])):
        assert relaunch(*flags, launch=f"{job}.0.1") == (2, ["the run did not start: see the error above"])
        attempt(*flags, launch=f"{job}.0.1")
        assert relaunch(*flags, launch=f"{job}.0.1")[1][1:] == ["--overwrite false"]
        code, lines = relaunch(*flags, launch=f"{job}.0.2")
        assert (code, lines[1:]) == (2, ["--overwrite false"]), "the second attempt did not start, but the first did"
    attempt(launch="8.0.1")
    for flags in ([], ["--overwrite", "false"], ["--overwrite", "--overwrite=false"]):
        assert len(relaunch(*flags, launch="8.0.1")[1]) == 1


def test_a_run_that_diverged_is_not_started_again():
    state = RunState(Status.failed, 1, 9, 4, 1, 0, 5, "data", "the loss is not finite", "id", diverged=True)
    status, line = decide(state, TINY, limit=3)
    assert status == 1
    assert line.endswith("not started again: a resumed run repeats the same steps")
