"""Progressive resizing: training starts with small images, whose epochs cost less."""

from dataclasses import dataclass

_STEP = 4  # pixels: every further size costs a compilation, or a search for the fastest convolutions


@dataclass(frozen=True)
class ProgressiveResizing:
    """The side of training images, which grows linearly in steps; validation images always have the final one.

    Source: Tan and Le, EfficientNetV2 (2021), section 4, without its growing regularisation.

    Attributes:
        initial: side in the first epoch, pixels.
        final: side from epoch `epochs` (counted from 0) on, pixels; at least `initial`.
        epochs: number of epochs over which the side grows; 0 for the final side throughout.
    """

    initial: int
    final: int
    epochs: int

    def side(self, epoch: int) -> int:
        """Side of the training images in an epoch (counted from 0), pixels."""
        if epoch >= self.epochs:
            return self.final
        steps = (self.final - self.initial) * epoch // (self.epochs * _STEP)
        return self.initial + steps * _STEP
