"""Fits the model's parameters to measurements. Pure functions."""

from collections.abc import Sequence

import numpy as np

from benchmarks.scaling.model import Compute, Link


def fit_link(messages: Sequence[tuple[int, int, float]]) -> Link:
    """Fits latency and bandwidth to ring all-reduces: bytes, processes (at least 2), seconds."""
    terms = [(2 * (n - 1), 2 * (n - 1) / n * size, seconds) for size, n, seconds in messages]
    return Link(*two_terms(terms))


def fit_compute(steps: Sequence[tuple[int, float]]) -> Compute:
    """Fits the compute time to steps without communication: images, seconds."""
    return Compute(*two_terms([(1.0, images, seconds) for images, seconds in steps]))


def two_terms(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Non-negative least squares: the a and b that bring a * x + b * y closest to z, for samples of positive x, y, z.

    Errors are relative to z, so that small messages count as much as large ones, which take a thousand times as long.
    """
    x, y, z = np.array(samples, dtype=float).T
    columns = np.stack([x / z, y / z], axis=1)
    scale = columns.max(axis=0)  # bytes and calls differ by orders of magnitude
    solution, *_ = np.linalg.lstsq(columns / scale, np.ones(len(z)), rcond=None)
    for index in (0, 1):
        if solution[index] < 0:  # the constrained optimum is then at zero
            other = columns[:, 1 - index] / scale[1 - index]
            solution[index], solution[1 - index] = 0.0, other.sum() / (other**2).sum()
    a, b = solution / scale
    return float(a), float(b)
