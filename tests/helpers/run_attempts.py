"""Attempts of a run, started without training, and the files of its directory."""

from processes import TINY

from regnet.config.parser import parse_config
from regnet.runs.directory import RunDirectory

# Files that a run writes.
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
# Variables by which launchers tell attempts of a job from other jobs.
LAUNCHERS = (
    "REGNET_LAUNCH",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
)


def start_attempt(monkeypatch, runs_dir, *flags, **environment):
    """Opens the directory of run `tiny` and starts an attempt, with these flags and these variables of a launcher."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    directory = RunDirectory(parse_config(["--config", str(TINY), "--runs_dir", str(runs_dir), *flags]), "images")
    directory.begin(*directory.completed, "1 x cpu")
    directory.close()
    return directory


def write_files(run_dir, names):
    """Writes files with their own names as content."""
    for name in names:
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text(name)


def files_in(run_dir):
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
