"""Exact mean and standard deviation of the channels of many images."""

from dataclasses import dataclass, field

import cv2
import numpy as np

_LEVELS = np.arange(256)
# OpenCV counts in 32-bit integers and returns float32, which holds integers up to this one.
_LARGEST_COUNT = 1 << 24


def _no_pixels() -> np.ndarray:
    return np.zeros((3, 256), np.int64)


@dataclass
class ChannelStatistics:
    """How often each value occurs in each channel: int64 (3, 256)."""

    counts: np.ndarray = field(default_factory=_no_pixels)

    def add(self, image: np.ndarray) -> None:
        """Adds an image, uint8 (H, W, 3)."""
        rows = max(1, _LARGEST_COUNT // image.shape[1])
        for top in range(0, len(image), rows):
            for channel in range(3):
                counts = cv2.calcHist([image[top : top + rows]], [channel], None, [256], [0, 256])
                self.counts[channel] += counts.reshape(256).astype(np.int64)

    def merge(self, other: "ChannelStatistics") -> None:
        self.counts += other.counts

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """In units of the byte range scaled to 0..1; the std of a constant channel is one level."""
        pixels = int(self.counts[0].sum())
        means = [int(counts @ _LEVELS) / pixels for counts in self.counts]
        squares = [int(counts @ _LEVELS**2) / pixels for counts in self.counts]
        stds = [max(square - mean**2, 1.0) ** 0.5 for square, mean in zip(squares, means, strict=True)]
        return tuple(mean / 255 for mean in means), tuple(std / 255 for std in stds)
