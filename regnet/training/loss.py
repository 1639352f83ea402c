"""What is minimised: the distance to the targets, and beside it to a larger network's answers.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regnet.checkpoint.load_model import load_trained_model
from regnet.config.schema import Config, DistillConfig
from regnet.errors import UsageError
from regnet.models.design_space import check_resolution


def open_teacher(config: Config, classes: tuple[str, ...]) -> nn.Module | None:
    """The network that is to be learned from, if there is one: on the CPU, never to be trained again.

    Raises:
        UsageError: its file cannot be used, or it knows other classes, or needs larger images.
    """
    path = config.distill.teacher
    if not path:
        return None
    trained = load_trained_model(Path(path))
    if trained.classes != classes:
        raise UsageError(f"{path}: the teacher was trained on other classes")
    design, data = trained.config.model.design(), config.data
    for option, side in (("data.resolution", data.resolution), ("data.initial_resolution", data.initial_resolution)):
        if option == "data.resolution" or data.progressive_resizing_epochs:
            check_resolution(design, side, f"{path}: {option}")
    return trained.model.requires_grad_(False)


class Loss:
    """Cross-entropy with the targets, which may be smoothed; with a teacher, `share` of it is the distance to it.

    Args:
        smoothing: share of every target that is spread over all classes.
        teacher: images (n, 3, H, W) -> logits (n, classes), in evaluation mode; its device is theirs.
    """

    def __init__(self, smoothing: float, teacher: Callable[[Tensor], Tensor] | None, distill: DistillConfig) -> None:
        self.smoothing, self.teacher = smoothing, teacher
        self.share, self.temperature = distill.alpha, distill.temperature

    def answers(self, images: Tensor) -> Tensor | None:
        """The teacher's logits, if there is one."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher(images)

    def __call__(self, logits: Tensor, targets: Tensor, answers: Tensor | None) -> Tensor:
        """The sum over n samples, float32 ().

        Args:
            logits: (n, classes).
            targets: int64 (n,) or float32 (n, classes).
            answers: the teacher's logits (n, classes).
        """
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.smoothing)
        if answers is None:
            return loss
        softened, taught = ((values / self.temperature).log_softmax(1) for values in (logits, answers.float()))
        # The square keeps gradients as large at any temperature.
        distance = F.kl_div(softened, taught, reduction="sum", log_target=True) * self.temperature**2
        return (1 - self.share) * loss + self.share * distance
