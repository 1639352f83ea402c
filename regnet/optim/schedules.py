"""The learning rate of a step: a pure function."""

import math
from collections.abc import Callable

from regnet.config.schema import ScheduleConfig


def _half_cosine_up(done: float) -> float:
    return (1 - math.cos(math.pi * done)) / 2


def _half_cosine_down(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def _straight_up(done: float) -> float:
    return done


# Rise and fall: the part of the way from the lower rate to the peak, when this part of the steps is done, both 0 to 1.
_SMOOTH: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "cosine": (_straight_up, _half_cosine_down),
    "onecycle": (_half_cosine_up, _half_cosine_down),
}


def learning_rate(step: int, steps_per_epoch: int, epochs: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of optimiser step `step` (from 0) of a run of `epochs` epochs.

    cosine: Loshchilov and Hutter, SGDR (2017), equation 5, without restarts; onecycle: Smith and Topin,
    Super-Convergence (2018), with cosine instead of straight sides; reference: the rule that reproduces the
    reference's 40 logged rates, all of them constant within an epoch.
    """
    if schedule.name == "baseline":
        return _reference(step // steps_per_epoch, peak, schedule)
    rise, fall = _SMOOTH[schedule.name]
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.start_lr + (peak - schedule.start_lr) * rise(step / warmup)
    last = epochs * steps_per_epoch - 1
    done = min(1.0, (step - warmup) / max(1, last - warmup))
    return schedule.min_lr + (peak - schedule.min_lr) * fall(done)


def _reference(epoch: int, peak: float, schedule: ScheduleConfig) -> float:
    """`epoch` from 0: a linear rise, a quarter of a cosine, then the floor."""
    if epoch < schedule.warmup_epochs:
        return schedule.start_lr + (peak - schedule.start_lr) * epoch / schedule.warmup_epochs
    done = min(1.0, (epoch - schedule.warmup_epochs) / schedule.decay_epochs)
    return schedule.min_lr + (peak - schedule.min_lr) * math.cos(math.pi / 2 * done)
