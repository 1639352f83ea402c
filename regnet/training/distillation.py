"""Knowledge distillation: the teacher, and the loss between its logits and the network's.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regnet.checkpoint.load_model import Normalization, load_trained_model
from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.models.design_space import check_resolution
from regnet.training.dataset import Dataset


class Renormalized(nn.Module):
    """A network that takes images as another network does, which was trained with another mean and deviation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, own: Normalization, given: Normalization) -> None:
        super().__init__()
        self.network = network
        own_mean, own_std, mean, std = (
            torch.tensor(values[name]).view(3, 1, 1) for values in (own, given) for name in ("mean", "std")
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images * self.scale + self.shift)


def open_teacher(config: Config, dataset: Dataset) -> nn.Module | None:
    """The frozen teacher in evaluation mode, on the CPU; None if distillation is off.

    Raises:
        UsageError: its checkpoint cannot be used, or it has other classes, or it needs larger images.
    """
    path = config.distill.teacher
    if not path:
        return None
    trained = load_trained_model(Path(path))
    if trained.classes != tuple(dataset.classes):
        raise UsageError(
            f"distill.teacher {path} was trained on different classes; use a teacher trained on this dataset's classes"
        )
    design, data = trained.config.model.design(), config.data
    for option, side in (("data.resolution", data.resolution), ("data.initial_resolution", data.initial_resolution)):
        if option == "data.resolution" or data.progressive_resizing_epochs:
            check_resolution(design, side, f"{path}: {option}")
    teacher, given = trained.model.requires_grad_(False), {"mean": dataset.mean, "std": dataset.std}
    if trained.normalization in (None, given):
        return teacher
    return Renormalized(teacher, trained.normalization, given).eval()


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's to the network's softened predictions, summed over n samples: float32 ().

    Args:
        logits, teacher_logits: (n, classes).
    """
    student, teacher = ((values.float() / temperature).log_softmax(1) for values in (logits, teacher_logits))
    # The factor keeps the size of the gradients independent of the temperature.
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2
