"""What the model needs, from what was measured: pure functions."""

from collections.abc import Sequence

import numpy as np

from benchmarks.scaling.model import Compute, Link


def fit_link(messages: Sequence[tuple[int, int, float]]) -> Link:
    """Of all-reduces as a ring makes them: bytes, processes (2 or more), seconds."""
    terms = [(2 * (n - 1), 2 * (n - 1) / n * size, seconds) for size, n, seconds in messages]
    return Link(*two_terms(terms))


def fit_compute(steps: Sequence[tuple[int, float]]) -> Compute:
    """Of steps without any exchange: images, seconds."""
    return Compute(*two_terms([(1.0, images, seconds) for images, seconds in steps]))


def two_terms(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The a and b, neither below zero, for which a * x + b * y is nearest to z; all x, y, z are positive.

    Errors are relative to z: the smallest message counts as much as the largest, which takes a thousand times as long.
    """
    x, y, z = np.array(samples, dtype=float).T
    columns = np.stack([x / z, y / z], axis=1)
    scale = columns.max(axis=0)  # bytes are many and calls few: without it one column would pass for rounding
    found, *_ = np.linalg.lstsq(columns / scale, np.ones(len(z)), rcond=None)
    for index in (0, 1):
        if found[index] < 0:  # the nearest that is allowed then has none of it
            other = columns[:, 1 - index] / scale[1 - index]
            found[index], found[1 - index] = 0.0, other.sum() / (other**2).sum()
    a, b = found / scale
    return float(a), float(b)
