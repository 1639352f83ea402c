"""Small images first: an epoch of them costs less, and what they teach carries over."""

from dataclasses import dataclass

_STEP = 4  # pixels: each further side costs a compilation, or a search for the fastest convolutions


@dataclass(frozen=True)
class ProgressiveResizing:
    """The side of training images, which grows in a straight line and in steps; test images have the last one.

    Source: progressive resizing, as in Tan and Le, EfficientNetV2 (2021), section 4, without its growing
    regularisation.

    Attributes:
        first: side in the first epoch, pixels.
        last: side from epoch `epochs` (from 0) on, pixels; not below the first.
        epochs: over which it grows; 0 for the last side throughout.
    """

    first: int
    last: int
    epochs: int

    def side(self, epoch: int) -> int:
        """Of the images of one epoch (from 0), pixels."""
        if epoch >= self.epochs:
            return self.last
        steps = (self.last - self.first) * epoch // (self.epochs * _STEP)
        return self.first + steps * _STEP
