"""A W&B sweep with wandb's own agent: every run has its own name, and preempted runs resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from programs import ROOT, TINY, environment, state
from wandb_helpers import assert_complete, server

from regnet.config.parser import check_known, parse_config
from regnet.sweep import main as sweep_command
from regnet.tracking.wandb_sweep import name_sweep_run

# The `wandb` command, whose agent otherwise looks for work every five seconds.
AGENT = """
import sys
from wandb import wandb_agent
from wandb.cli.cli import cli
wandb_agent.Agent.POLL_INTERVAL = 0.2
cli(sys.argv[1:])
"""
SWEEP = ROOT / "configs" / "sweeps" / "wandb.yaml"


def values_of(parameter):
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def test_the_agent_trains_every_run_of_the_sweep_file_under_its_own_name(shards, tmp_path):
    sweep = yaml.safe_load(SWEEP.read_text())
    small = [f"--config={TINY}", f"--runs_dir={tmp_path / 'runs'}", f"--data.shards={shards}", "--train.epochs=1"]
    small += ["--optim.name=muon", "--tracking.wandb=auto", "--tracking.wandb_timeout=20"]
    sweep["command"] = [part for part in sweep["command"] if "--config" not in part]
    sweep["command"][-2:-2] = small
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    runs = [{name: values_of(parameter)[index] for name, parameter in sweep["parameters"].items()} for index in (0, 1)]
    with server("well", str(tmp_path / "sweep.yaml"), json.dumps(runs)) as wandb:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Processes that the agent leaves behind would keep a pipe open: its output goes to a file.
        with open(tmp_path / "output", "w") as output:
            agent = subprocess.run(
                [sys.executable, "-c", AGENT, "agent", "someone/regnet/s1", "--count", "2"],
                cwd=tmp_path,
                env=environment(**wandb.environment, PATH=path),
                stdout=output,
                stderr=output,
                timeout=200,
            )
        assert agent.returncode == 0, (tmp_path / "output").read_text()
        stored = wandb.runs()
    assert set(stored) == {"sweep-run-0", "sweep-run-1"}
    for (run_id, run), parameters in zip(stored.items(), runs, strict=True):
        folder = tmp_path / "runs" / f"sweep-{run_id}"
        assert (state(folder)["state"], state(folder)["wandb_id"]) == ("finished", run_id)
        assert state(folder)["command"][:3] == ["env", "WANDB_SWEEP_ID=s1", f"WANDB_RUN_ID={run_id}"]
        assert (run["name"], run["sweep"], run["exit_code"]) == (f"sweep-{run_id}", "s1", 0)
        assert_complete(run["history"], folder)
        assert run["summary"]["best/top1"] >= 0
        for name, value in parameters.items():
            section, option = name.split(".")
            assert run["config"][section]["value"][option] == value


def test_the_sweep_file_names_options_of_the_trainer_and_a_metric_of_the_summary():
    sweep = yaml.safe_load(SWEEP.read_text())
    for name, parameter in sweep["parameters"].items():
        check_known(name, name)
        for value in values_of(parameter):
            parse_config(["--config", "configs/fast.yaml", f"--{name}={value}"])
    assert sweep["metric"] == {"name": "best/top1", "goal": "maximize"}


def test_a_run_that_the_agent_starts_again_resumes(monkeypatch):
    config = parse_config(["--name", "lr"])
    assert name_sweep_run(config) == (config, [])
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    named, notes = name_sweep_run(config)
    assert (named.name, notes) == ("lr-abc", ["name is lr-abc: this is run abc of the W&B sweep s1"])
    assert name_sweep_run(named) == (named, []), "resumed from its config.yaml"


def test_the_two_kinds_of_sweep_files_are_not_confused(capsys):
    assert sweep_command(["count", str(SWEEP)]) != 0
    assert "wandb sweep" in capsys.readouterr().err
