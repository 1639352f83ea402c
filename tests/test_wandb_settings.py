"""What decides how a run is reported to W&B: its options, then wandb's own settings, then defaults."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from disks import mounted_tmpfs
from limits import LIMIT
from processes import environment, run, trainer
from run_directory import result, rows, state
from wandb.sdk import wandb_setup
from wandb_helpers import KEY, server

from regnet.config.parser import parse_config
from regnet.config.schema import TrackingConfig
from regnet.doctor.requirements import check_wandb
from regnet.tracking.wandb_settings import choose_mode, overruled

QUICK = ("--train.max_steps_per_epoch", "4", "--tracking.log_every", "2", "--tracking.wandb_timeout", str(LIMIT))


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """Neither variables nor files of W&B; wandb reads them again."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_ERROR_REPORTING", "WANDB_SILENT", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb_setup, "_singleton", None)
    return monkeypatch


MODES = {
    "": "offline",
    "WANDB_API_KEY=KEY": "online",
    "WANDB_API_KEY=KEY WANDB_MODE=offline": "offline",
    "WANDB_API_KEY=KEY WANDB_MODE=dryrun": "offline",
    "WANDB_API_KEY=KEY WANDB_MODE=disabled": "disabled",
    "WANDB_API_KEY=KEY WANDB_DISABLED=true": "disabled",
    "WANDB_API_KEY=KEY WANDB_DISABLED=true WANDB_MODE=online": "disabled",
    "WANDB_API_KEY=KEY WANDB_DISABLED=false": "online",
    "WANDB_API_KEY=KEY WANDB_DISABLED=": "online",
    "WANDB_MODE=online": "online",
    "WANDB_API_KEY=KEY WANDB_MODE=shared": "online",
    "WANDB_API_KEY=short": "online",
}


@pytest.mark.parametrize("variables", MODES)
def test_wandb_auto_follows_the_environment(clean, variables):
    for assignment in variables.split():
        name, _, value = assignment.partition("=")
        clean.setenv(name, value.replace("KEY", KEY))
    assert choose_mode(TrackingConfig()).name == MODES[variables]
    (finding,) = check_wandb(parse_config([]))
    if variables in ("WANDB_MODE=online", "WANDB_API_KEY=short"):
        assert finding.severity == "WARN"
        assert "logs offline (tracking.wandb: auto)" in finding.message
    else:
        assert {"online": "online", "offline": "offline", "disabled": "not used"}[MODES[variables]] in finding.message


@pytest.mark.parametrize("command", ["offline", "disabled"])
def test_auto_follows_the_commands_of_wandb(clean, tmp_path, command):
    clean.setenv("WANDB_API_KEY", KEY)
    subprocess.run([sys.executable, "-m", "wandb", command], check=True, capture_output=True, timeout=LIMIT)
    assert choose_mode(TrackingConfig()) == (command, "wandb's settings file")


@pytest.mark.parametrize("host", ["api.wandb.ai", "wandb.example"])
def test_a_key_in_netrc_is_found_for_the_configured_server(clean, tmp_path, host):
    (tmp_path / ".netrc").write_text(f"machine {host}\nlogin user\npassword {KEY}\n")
    clean.setenv("WANDB_BASE_URL", f"https://{host}")
    assert choose_mode(TrackingConfig()).name == "online"


def test_an_invalid_setting_of_wandb_uploads_nothing_and_is_reported(clean):
    clean.setenv("WANDB_API_KEY", KEY)
    clean.setenv("WANDB_MODE", "of")
    (finding,) = check_wandb(parse_config([]))
    assert finding.severity == "WARN"
    assert "not used" in finding.message
    assert "mode" in finding.message


def test_a_variable_that_an_option_overrules_is_named(clean):
    clean.setenv("WANDB_MODE", "disabled")
    clean.setenv("WANDB_PROJECT", "theirs")
    clean.setenv("WANDB_RUN_GROUP", "same")
    flags = ["--tracking.wandb=online", "--tracking.wandb_project=ours", "--tracking.wandb_group=same"]
    assert list(overruled(parse_config(flags).tracking)) == [
        "WANDB_MODE=disabled is ignored: tracking.wandb is online",
        "WANDB_PROJECT=theirs is ignored: tracking.wandb_project is ours",
    ]
    assert list(overruled(parse_config([]).tracking)) == []
    clean.setenv("WANDB_DISABLED", "true")
    clean.setenv("WANDB_SWEEP_ID", "s1")
    assert list(overruled(parse_config(["--tracking.wandb=offline", "--tracking.wandb_project=theirs"]).tracking)) == [
        "WANDB_MODE=disabled is ignored: tracking.wandb is offline",
        "WANDB_DISABLED=true is ignored: tracking.wandb is offline",
        "tracking.wandb_project theirs is ignored: the project is that of sweep s1",
    ]
    assert "sweep" not in "".join(overruled(parse_config(["--tracking.wandb=offline"]).tracking))


def test_a_run_follows_the_variables_of_wandb(shards, tmp_path):
    theirs = {"PROJECT": "theirs", "NAME": "their name", "RUN_ID": "theirid", "RUN_GROUP": "their group"}
    folder = tmp_path / "their dir"
    theirs |= {"ENTITY": "someone", "TAGS": "a,b", "NOTES": "a note", "JOB_TYPE": "tune", "DIR": str(folder)}
    folder.mkdir()
    with server() as wandb:
        variables = {f"WANDB_{name}": value for name, value in theirs.items()}
        done = run(trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "auto"), **wandb.environment, **variables)
        assert done.returncode == 0, done.stderr
        (run_id,) = wandb.runs()
        stored = wandb.run()
        assert f"Weights & Biases: {wandb.url}/someone/theirs/runs/theirid" in done.stdout
    assert run_id == state(tmp_path / "tiny")["wandb_id"] == "theirid"
    expected = ("theirs", "their name", "their group", ["a", "b"], "a note", "tune")
    names = ("project", "name", "group", "tags", "notes", "job_type")
    assert tuple(stored[name] for name in names) == expected
    assert list((folder / "wandb").glob("run-*-theirid"))


def test_nothing_is_uploaded_when_wandb_is_disabled(shards, tmp_path):
    with server() as wandb:
        command = trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "auto")
        done = run(command, **wandb.environment, WANDB_MODE="disabled")
        assert done.returncode == 0, done.stderr
        assert wandb.runs() == {}
    assert "Weights & Biases: disabled (WANDB_MODE=disabled)" in done.stdout
    assert not (tmp_path / "tiny" / "wandb").exists()


def test_a_home_directory_that_cannot_be_written_floods_no_console(shards, tmp_path):
    with mounted_tmpfs(tmp_path / "home", "ro") as home:
        command = trainer(tmp_path / "a b", shards, *QUICK, "--tracking.wandb", "auto")
        done = run(command, HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 6
    (line,) = (line for line in done.stdout.splitlines() if "Upload with: " in line)
    assert Path(shlex.split(line)[-1]).is_dir()
    assert result(tmp_path / "a b" / "tiny")
    assert rows(tmp_path / "a b" / "tiny", "step")


def test_without_a_key_nobody_is_asked_for_one(shards, tmp_path):
    command = trainer(tmp_path, shards, *QUICK, "--tracking.wandb", "online")
    done = run(command, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "cannot be used online (no API key: run wandb login, or set WANDB_API_KEY)" in done.stdout
    assert "logging offline" in done.stdout
