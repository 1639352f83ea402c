"""Everything that changes during training, as a checkpoint holds it."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regnet.checkpoint.file import CheckpointError
from regnet.checkpoint.snapshot import indices_by_kind
from regnet.checkpoint.state_dicts import check_same_shapes, incomplete, map_tensors
from regnet.distributed.world import World
from regnet.metrics.training import TrainingAccumulator
from regnet.models.regnet import Model
from regnet.training.early_stopping import EarlyStopping
from regnet.training.ema import ModelEma

_KEYS = ("model", "scaler", "ema", "metrics", "stopping", "progress", "random", "config", "data")


class NonFinite(Exception):
    """A weight, BatchNorm statistic or optimiser state that is not finite, by name; such a state must not be saved."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: completed epochs.
        step: completed steps of the current epoch.
        global_step: completed steps of the run.
        seconds: time spent on the current epoch.
        best_top1: best validation accuracy of all epochs so far, 0 to 1; -1 before the first.
        best_step: global step after which it was reached.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    best_top1: float = -1.0
    best_step: int = -1


@dataclass
class TrainingState:
    """What changes during training. A new checkpoint field goes into `state_dict` and `load_state_dict`.

    Attributes:
        metrics: training metrics of the current epoch.
        metadata: what a checkpoint says about its run: `config`, `data` (identity of the dataset), `classes`,
            `normalization`, and from `Run.resume_or_start` on `environment`.
    """

    model: Model
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma | None
    metrics: TrainingAccumulator
    stopping: EarlyStopping
    progress: Progress
    metadata: dict[str, Any]

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: the EMA weights if there are any."""
        return self.model if self.ema is None else self.ema.module

    def sync_buffers(self, world: World) -> None:
        """Broadcasts rank zero's BatchNorm statistics.

        Training does not read them, so ranks may differ until the network is evaluated or saved.
        """
        ema_buffers = [] if self.ema is None else self.ema.module.buffers()
        world.broadcast_([*self.model.buffers(), *ema_buffers])

    def first_non_finite(self) -> str | None:
        """The name of the first weight, statistic or optimiser state that is not finite; None if all are.

        Adam's second moment becomes infinite if the square of a gradient overflows, and
        the weight never changes again.
        """
        tensors = self.model.state_dict()
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key} of {name}": value for key, value in state.items() if isinstance(value, Tensor)}
        names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()]
        values = [tensors[name] for name in names]
        non_finite: list[int] = []
        for indices in indices_by_kind(values).values():
            # The largest magnitude is finite exactly if all numbers are; a sum of finite numbers might not be.
            largest = torch.stack(torch._foreach_norm([values[index] for index in indices], math.inf))
            pairs = zip(indices, largest.tolist(), strict=True)
            non_finite += [index for index, found in pairs if not math.isfinite(found)]
        return names[min(non_finite)] if non_finite else None

    def state_dict(self, world: World) -> dict[str, Any]:
        """The contents of a checkpoint; all ranks call it together.

        Raises:
            NonFinite: on all ranks at once, for a weight, statistic or optimiser state of any rank.
        """
        metrics = map_tensors(self.metrics.state_dict(), Tensor.cpu)
        ranks = world.gather((self.first_non_finite(), metrics, _random_states(world.device)))
        for name, *_ in ranks:
            if name is not None:
                raise NonFinite(name)
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "metrics": [metrics for _, metrics, _ in ranks],
            "stopping": {"best": self.stopping.best, "stale": self.stopping.stale},
            "progress": asdict(self.progress),
            "random": [random for *_, random in ranks],
            **self.metadata,
        }

    def load_state_dict(self, state: dict[str, Any], world: World) -> None:
        """Restores a checkpoint, which another number of ranks may have written.

        Raises:
            CheckpointError: it holds another network; the message names the first difference.
        """
        check_same_shapes(self.model.state_dict(), state["model"], same_types=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.metrics.load_state_dict(_metrics_of_rank(state["metrics"], world))
        self.stopping.best, self.stopping.stale = state["stopping"]["best"], state["stopping"]["stale"]
        self.progress = Progress(**state["progress"])
        if world.rank < len(state["random"]):
            _set_random_states(state["random"][world.rank], world.device)


def check_resumable(path: Path, saved: dict[str, Any]) -> None:
    """Raises CheckpointError unless a checkpoint has everything that `TrainingState.load_state_dict` reads."""
    if "optimizer" not in saved:
        raise CheckpointError(f"{path} holds weights only, which cannot be resumed: use --model.weights")
    missing = [name for name in _KEYS if name not in saved]
    missing = missing or [field.name for field in fields(Progress) if field.name not in saved["progress"]]
    if missing:
        raise incomplete(path, KeyError(missing[0]))


def _metrics_of_rank(of_ranks: list[dict[str, torch.Tensor]], world: World) -> dict[str, torch.Tensor]:
    """This rank's accumulator; if the number of ranks has changed, rank zero gets the sums of all."""
    if len(of_ranks) == world.size:
        return of_ranks[world.rank]
    summed = {name: torch.stack([metrics[name] for metrics in of_ranks]).sum(0) for name in of_ranks[0]}
    return summed if world.is_main else {name: torch.zeros_like(sums) for name, sums in summed.items()}


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
