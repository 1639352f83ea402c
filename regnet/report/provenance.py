"""Where a run's results come from: what started it, what it ran on, and where its files are."""

import os
import shlex
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from regnet.report.run_data import RunData
from regnet.runs.files import CONFIG

# Names in the report, and in events.jsonl.
_ENVIRONMENT = (
    ("host", "host"),
    ("device", "device"),
    ("threads per process", "threads"),
    ("git commit", "commit"),
    ("PyTorch", "torch"),
    ("Python", "python"),
)


class Entry(NamedTuple):
    """A line of the provenance; `link` is a URL, or relative to the report, or empty."""

    name: str
    text: str
    link: str = ""


def provenance(run: RunData, out: Path) -> list[Entry]:
    """What is recorded of a run's latest attempt.

    Args:
        out: directory of the report.
    """
    state = run.state
    started = [event for event in run.events if event["kind"] == "started"]
    environment = started[-1].get("environment", {}) if started else {}
    checkpoint = run.directory / "checkpoints" / "best.pt"
    entries = [
        Entry("command", shlex.join(state.command)),
        Entry("working directory", state.directory),
        Entry("job", ", ".join(state.jobs)),
        Entry("processes", started[-1]["detail"] if started else ""),
        *(Entry(name, environment.get(key, "")) for name, key in _ENVIRONMENT),
        Entry("images", f"{run.options.get('data.shards', '')} (identity {state.data})"),
        Entry("Weights & Biases", state.wandb_url, state.wandb_url if state.wandb_url.startswith("http") else ""),
        Entry("best checkpoint", *_file(checkpoint, out)),
        Entry("configuration", *_file(run.directory / CONFIG, out)),
        Entry("metrics", *_file(run.directory / "metrics.jsonl", out)),
    ]
    return [entry for entry in entries if entry.text]


def _file(path: Path, out: Path) -> tuple[str, str]:
    """Its path, and a link that stays valid when both are moved together; empty if there is no such file."""
    if not path.exists():
        return "", ""
    relative = os.path.relpath(path.absolute(), out.absolute())
    return str(path.absolute()), urllib.parse.quote(os.fsencode(relative))
