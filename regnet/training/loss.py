"""The training loss: cross-entropy with label smoothing, optionally mixed with a distillation loss."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from regnet.config.schema import DistillConfig
from regnet.training.distillation import distillation_loss


class Loss:
    """Cross-entropy with the targets; with a teacher, (1 - alpha) * cross-entropy + alpha * distillation loss.

    Args:
        label_smoothing: fraction of every target that is spread over all classes.
        teacher: images (n, 3, H, W) -> logits (n, classes), in evaluation mode and on the device of the images.
    """

    def __init__(
        self, label_smoothing: float, teacher: Callable[[Tensor], Tensor] | None, distill: DistillConfig
    ) -> None:
        self.label_smoothing, self.teacher = label_smoothing, teacher
        self.alpha, self.temperature = distill.alpha, distill.temperature

    def teacher_logits(self, images: Tensor) -> Tensor | None:
        """The teacher's logits (n, classes), without gradients; None if there is no teacher."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher(images)

    def __call__(self, logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> Tensor:
        """The loss summed over n samples: float32 ().

        Args:
            logits: (n, classes).
            targets: int64 (n,) or float32 (n, classes).
            teacher_logits: (n, classes), or None for cross-entropy alone.
        """
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.label_smoothing)
        if teacher_logits is None:
            return loss
        distillation = distillation_loss(logits, teacher_logits, self.temperature)
        return (1 - self.alpha) * loss + self.alpha * distillation
