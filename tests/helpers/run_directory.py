"""Reads what a run has written to its directory."""

import json
from pathlib import Path
from typing import Any

import torch

from regnet.checkpoint.file import load
from regnet.checkpoint.manager import CheckpointManager


def rows(run_dir: Path, kind: str) -> list[dict]:
    """Rows of one kind in a run's metrics.jsonl, without timings. An incomplete last line is ignored."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    timings = ("seconds", "images_per_second")
    return [{key: row[key] for key in row if key not in timings} for row in parsed if row["kind"] == kind]


def result(run_dir: Path) -> dict:
    return json.loads((run_dir / "result.json").read_text())


def state(run_dir: Path) -> dict:
    return json.loads((run_dir / "state.json").read_text())


def outcome(run_dir: Path) -> tuple[Any, ...]:
    """Everything that must be bit-identical in equivalent runs: reported metrics and the newest checkpoint."""
    final = result(run_dir)
    reported = rows(run_dir, "step"), rows(run_dir, "epoch"), final["weights_sha256"], final["class_accuracy"]
    newest = CheckpointManager(run_dir / "checkpoints", 1).paths()[-1]
    return *reported, newest.name, comparable(load(newest))


def comparable(value: Any) -> Any:
    """A checkpoint's content with tensors as lists, so that == compares them; without timings and the configuration."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items() if key not in ("seconds", "config")}
    return [comparable(entry) for entry in value] if isinstance(value, list | tuple) else value
