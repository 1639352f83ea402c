"""Learning-rate schedules, as a pure function of the step."""

import math
from collections.abc import Callable

from regnet.config.schema import ScheduleConfig


def _linear_warmup(progress: float) -> float:
    return progress


def _cosine_warmup(progress: float) -> float:
    return (1 - math.cos(math.pi * progress)) / 2


def _cosine_decay(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


# Warm-up and decay of each smooth schedule: progress of the phase (0 to 1) -> position between the minimum (0) and the
# peak (1) learning rate.
_SMOOTH_SCHEDULES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "cosine": (_linear_warmup, _cosine_decay),
    "onecycle": (_cosine_warmup, _cosine_decay),
}


def learning_rate(step: int, steps_per_epoch: int, epochs: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of optimiser step `step` (from 0) in a run of `epochs` epochs.

    cosine: Loshchilov and Hutter, SGDR (2017), equation 5, without restarts. onecycle: Smith and Topin,
    Super-Convergence (2018), with cosine instead of linear phases. baseline: reproduces the 40 logged learning rates
    of the original one-GPU program, which are constant within an epoch.
    """
    if schedule.name == "baseline":
        return _baseline(step // steps_per_epoch, peak, schedule)
    warmup, decay = _SMOOTH_SCHEDULES[schedule.name]
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return schedule.start_lr + (peak - schedule.start_lr) * warmup(step / warmup_steps)
    last_step = epochs * steps_per_epoch - 1
    progress = (step - warmup_steps) / max(1, last_step - warmup_steps)
    return schedule.min_lr + (peak - schedule.min_lr) * decay(progress)


def _baseline(epoch: int, peak: float, schedule: ScheduleConfig) -> float:
    """Linear warm-up, a quarter cosine over `decay_epochs`, then `min_lr`; `epoch` counts from 0."""
    if epoch < schedule.warmup_epochs:
        return schedule.start_lr + (peak - schedule.start_lr) * epoch / schedule.warmup_epochs
    progress = min(1.0, (epoch - schedule.warmup_epochs) / schedule.decay_epochs)
    return schedule.min_lr + (peak - schedule.min_lr) * math.cos(math.pi / 2 * progress)
