"""A W&B sweep with wandb's own agent: every run has its own name, and preempted runs resume."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from fork_server import ForkedCommand
from forked_program import listening
from limits import LIMIT
from processes import ROOT, TINY, run
from run_directory import state
from wandb_helpers import assert_complete, server

from regnet.config.parser import check_known, parse_config
from regnet.sweep import main as sweep_command
from regnet.tracking.wandb_sweep import name_sweep_run

SWEEP = ROOT / "configs" / "sweeps" / "wandb.yaml"


def values_of(parameter):
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.thorough
def test_the_agent_trains_every_run_of_the_sweep_file_under_its_own_name(shards, tmp_path):
    sweep = yaml.safe_load(SWEEP.read_text())
    small = [f"--config={TINY}", f"--runs_dir={tmp_path / 'runs'}", f"--data.shards={shards}", "--train.epochs=1"]
    small += [
        "--train.max_steps_per_epoch=4",
        "--optim.name=muon",
        "--tracking.wandb=auto",
        f"--tracking.wandb_timeout={LIMIT}",
    ]
    command = [part for part in sweep["command"] if "--config" not in part]
    command[-2:-2] = small
    command.insert(command.index("${program}"), str(ROOT / "tests" / "helpers" / "forked_program.py"))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "command": command}))
    runs = [{name: values_of(parameter)[index] for name, parameter in sweep["parameters"].items()} for index in (0, 1)]
    with server("well", json.dumps(runs)) as wandb, listening() as forks:
        agent = ForkedCommand(["tests/helpers/wandb_sweep_commands.py", str(tmp_path / "sweep.yaml")])
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = run(agent, **wandb.environment, **forks, PATH=path, HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "Run sweep agent with: wandb agent someone/regnet/s1" in done.stderr
        stored = wandb.runs()
    assert set(stored) == {"sweep-run-0", "sweep-run-1"}
    for (run_id, sent), parameters in zip(stored.items(), runs, strict=True):
        folder = tmp_path / "runs" / f"sweep-{run_id}"
        assert (state(folder)["state"], state(folder)["wandb_id"]) == ("finished", run_id)
        assert state(folder)["command"][:3] == ["env", "WANDB_SWEEP_ID=s1", f"WANDB_RUN_ID={run_id}"]
        assert (sent["name"], sent["sweep"], sent["exit_code"]) == (f"sweep-{run_id}", "s1", 0)
        assert_complete(sent["history"], folder)
        assert sent["summary"]["best/top1"] >= 0
        for name, value in parameters.items():
            section, option = name.split(".")
            assert sent["config"][section]["value"][option] == value


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
