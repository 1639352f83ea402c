"""Everything about a run that a checkpoint holds."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from regnet.checkpoint.contents import check_same_shapes, copy_to_cpu
from regnet.checkpoint.file import CheckpointError
from regnet.distributed.world import World
from regnet.metrics.training import TrainingAccumulator
from regnet.models.regnet import Model
from regnet.training.early_stopping import EarlyStopping
from regnet.training.ema import ModelEma


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: epochs done.
        step: steps done of the epoch under way.
        global_step: steps done of the run.
        seconds: spent on the epoch under way.
        best_accuracy: on the test set, of all epochs so far, 0 to 1.
        best_step: global step after which it was reached.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    best_step: int = -1


@dataclass
class TrainingState:
    """The parts of a run that change while it trains."""

    model: Model
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma | None
    counters: TrainingAccumulator
    stopping: EarlyStopping
    progress: Progress

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def sync_buffers(self, world: World) -> None:
        """Gives all ranks rank zero's BatchNorm statistics.

        Training does not read them, so they may differ between ranks until the network is evaluated or saved.
        """
        averaged = [] if self.ema is None else self.ema.module.buffers()
        world.broadcast_([*self.model.buffers(), *averaged])

    def not_finite(self) -> str | None:
        """The name of a weight or statistic that is no number, if there is one: such a state is not worth keeping."""
        tensors = self.model.state_dict()
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
        return None if finite.all() else list(tensors)[int(finite.int().argmin())]

    def state_dict(self, world: World) -> dict[str, Any]:
        """What a checkpoint holds; all ranks call it together."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "counters": world.gather(copy_to_cpu(self.counters.state_dict())),
            "stopping": {"best": self.stopping.best, "stale": self.stopping.stale},
            "progress": asdict(self.progress),
            "random": world.gather(_random_states(world.device)),
        }

    def load_state_dict(self, state: dict[str, Any], world: World) -> None:
        """Continues from a checkpoint, also one of another number of ranks.

        Raises:
            CheckpointError: it belongs to another network, the first difference from which the message names, or is of
                a network alone.
        """
        if "optimizer" not in state:
            raise CheckpointError("the checkpoint is of a network alone, from which no run continues")
        check_same_shapes(self.model.state_dict(), state["model"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.counters.load_state_dict(_own_counters(state["counters"], world))
        self.stopping.best, self.stopping.stale = state["stopping"]["best"], state["stopping"]["stale"]
        self.progress = Progress(**state["progress"])
        if world.rank < len(state["random"]):
            _set_random_states(state["random"][world.rank], world.device)


def _own_counters(of_ranks: list[dict[str, torch.Tensor]], world: World) -> dict[str, torch.Tensor]:
    """This rank's counters; if the number of ranks has changed, rank zero takes the sums of all."""
    if len(of_ranks) == world.size:
        return of_ranks[world.rank]
    summed = {name: torch.stack([counters[name] for counters in of_ranks]).sum(0) for name in of_ranks[0]}
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
