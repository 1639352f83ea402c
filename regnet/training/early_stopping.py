"""Patience: pure bookkeeping, no torch."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class EarlyStopping:
    """Counts epochs in a row that bring no improvement.

    Args:
        patience: so many of them mean stop; 0 for never.
        mode: whether lower ("min") or higher ("max") values are better.
    """

    patience: int
    mode: Literal["min", "max"]
    best: float | None = None
    stale: int = 0

    def update(self, value: float) -> bool:
        """Takes the value of one more epoch; True if it is the best so far. A value that is no number never is."""
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
