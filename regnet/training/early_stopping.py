"""Early stopping."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class EarlyStopping:
    """Counts consecutive epochs without improvement of the monitored metric.

    Args:
        patience: number of such epochs after which training stops; 0 to disable early stopping.
        mode: whether lower ("min") or higher ("max") values are better.

    Attributes:
        best: best value so far; None before the first.
        stale: consecutive epochs without improvement.
    """

    patience: int
    mode: Literal["min", "max"]
    best: float | None = None
    stale: int = 0

    def update(self, value: float) -> bool:
        """Records the value of an epoch; returns True if it is the best so far, which NaN never is."""
        improved = not math.isnan(value) and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )
        if improved:
            self.best, self.stale = value, 0
        else:
            self.stale += 1
        return improved

    @property
    def should_stop(self) -> bool:
        return 0 < self.patience <= self.stale
