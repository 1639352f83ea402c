"""The learning rate of a step: a pure function."""

import math

from regnet.config import ScheduleConfig


def learning_rate(step: int, steps_per_epoch: int, epochs: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of optimiser step `step` (from 0) of a run of `epochs` epochs.

    cosine: Loshchilov and Hutter, SGDR (2017), equation 5, without restarts; onecycle: Smith and Topin,
    Super-Convergence (2018), with cosine instead of straight sides; reference: the rule that reproduces the
    reference's 40 logged rates, all of them constant within an epoch.
    """
    if schedule.name == "reference":
        return _reference(step // steps_per_epoch, peak, schedule)
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        done = step / warmup
        share = done if schedule.name == "cosine" else (1 - math.cos(math.pi * done)) / 2
        return schedule.start_lr + (peak - schedule.start_lr) * share
    last = epochs * steps_per_epoch - 1
    done = min(1.0, (step - warmup) / max(1, last - warmup))
    return schedule.min_lr + (peak - schedule.min_lr) * (1 + math.cos(math.pi * done)) / 2


def _reference(epoch: int, peak: float, schedule: ScheduleConfig) -> float:
    """`epoch` from 0: a linear rise, a quarter of a cosine, then the floor."""
    if epoch < schedule.warmup_epochs:
        return schedule.start_lr + (peak - schedule.start_lr) * epoch / schedule.warmup_epochs
    done = min(1.0, (epoch - schedule.warmup_epochs) / schedule.decay_epochs)
    return schedule.min_lr + (peak - schedule.min_lr) * math.cos(math.pi / 2 * done)
