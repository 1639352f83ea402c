"""Knowledge distillation: the teacher, and the loss between its logits and the network's.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015), section 2.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from regnet.checkpoint.load_model import load_trained_model
from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.models.design_space import check_resolution


def open_teacher(config: Config, classes: tuple[str, ...]) -> nn.Module | None:
    """The frozen teacher in evaluation mode, on the CPU; None if distillation is off.

    Raises:
        UsageError: its checkpoint cannot be used, or it has other classes, or it needs larger images.
    """
    path = config.distill.teacher
    if not path:
        return None
    trained = load_trained_model(Path(path))
    if trained.classes != classes:
        raise UsageError(
            f"distill.teacher {path} was trained on different classes; use a teacher trained on this dataset's classes"
        )
    design, data = trained.config.model.design(), config.data
    for option, side in (("data.resolution", data.resolution), ("data.initial_resolution", data.initial_resolution)):
        if option == "data.resolution" or data.progressive_resizing_epochs:
            check_resolution(design, side, f"{path}: {option}")
    return trained.model.requires_grad_(False)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's to the network's softened predictions, summed over n samples: float32 ().

    Args:
        logits, teacher_logits: (n, classes).
    """
    student, teacher = ((values.float() / temperature).log_softmax(1) for values in (logits, teacher_logits))
    # The factor keeps the size of the gradients independent of the temperature.
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2
