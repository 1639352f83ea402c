"""state.json: how a run stands, for people and launchers. It imports no torch."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

STATE = "state.json"


class Status(StrEnum):
    running = "running"
    finished = "finished"
    preempted = "preempted"
    failed = "failed"


@dataclass(frozen=True)
class RunState:
    """What state.json says.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        began: step that the latest attempt continued from.
        attempt: how often the run was started.
        fruitless: attempts of its job in a row, before the latest, that ended without getting any further.
        epochs: that it was to train in all.
        data: identity of the samples that it trains on.
        reason: why it stopped, or empty.
        wandb_id: of the run at Weights & Biases.
        launch: what its launcher calls the latest attempt (REGNET_LAUNCH, a job and then what it likes), or empty.
    """

    state: Status
    epoch: int
    step: int
    began: int
    attempt: int
    fruitless: int
    epochs: int
    data: str
    reason: str
    wandb_id: str
    launch: str = ""

    @property
    def setbacks(self) -> int:
        """Attempts in a row, the latest among them, that ended without getting any further."""
        return 0 if self.step > self.began or self.state is Status.finished else self.fruitless + 1


def read_state(directory: Path) -> RunState | None:
    """What state.json says; None if it is not there, or damaged, which is told."""
    path = directory / STATE
    try:
        return parse_state(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(f"{error}: attempts are counted anew", flush=True)
        return None


def parse_state(path: Path) -> RunState:
    """Raises OSError if the file cannot be read, ValueError if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return RunState(**{**record, "state": Status(record["state"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error


def as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"
