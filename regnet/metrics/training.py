"""Training metrics: loss and accuracies of an epoch, accumulated on the device and summed over ranks once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regnet.distributed.world import World


@dataclass(frozen=True)
class TrainingResult:
    """Metrics over the training samples of an epoch.

    Attributes:
        samples: number of samples.
        loss: mean loss over the samples.
        top1, top5: accuracies, 0 to 1.
        class_correct, class_samples: numbers of correct predictions and of samples of each class.
    """

    samples: int
    loss: float
    top1: float
    top5: float
    class_correct: tuple[int, ...]
    class_samples: tuple[int, ...]

    @property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """Accuracy of each class, 0 to 1; None for classes without samples."""
        pairs = zip(self.class_correct, self.class_samples, strict=True)
        return tuple(correct / samples if samples else None for correct, samples in pairs)


class TrainingAccumulator:
    """Sums over samples: losses in float64, everything else in int64.

    Counts are exact, so they do not depend on how samples are distributed over ranks.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        # By label: how often the first, ..., fifth most probable class was correct, and the number of samples.
        self._counts = torch.zeros((classes, min(5, classes) + 1), dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor, loss_sum: Tensor, counted: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            logits: (n, classes).
            labels: int64 (n,).
            loss_sum: sum of the n losses.
            counted: bool () on the device; the batch is ignored if it is false. None for always true.
        """
        label = labels.unsqueeze(1)
        predicted = logits.topk(self._counts.shape[1] - 1, dim=1).indices
        counts = torch.cat([predicted, label], dim=1) == label  # the label itself counts the sample
        if counted is not None:
            counts, loss_sum = counts & counted, loss_sum.where(counted, 0)
        self._loss += loss_sum
        self._counts.index_add_(0, labels, counts.long())

    def state_dict(self) -> dict[str, Tensor]:
        """loss float64 (), top5 int64 (), class_correct and class_samples int64 (classes,)."""
        return {
            "loss": self._loss,
            "top5": self._counts[:, :-1].sum(),
            "class_correct": self._counts[:, 0],
            "class_samples": self._counts[:, -1],
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._loss.copy_(state["loss"])
        self._counts.zero_()
        # Only the sum over all labels is known of the second to fifth most probable classes.
        self._counts[0, 1] = state["top5"] - state["class_correct"].sum()
        self._counts[:, 0] = state["class_correct"]
        self._counts[:, -1] = state["class_samples"]

    def summed(self, world: World) -> "TrainingAccumulator":
        """A new accumulator with the sums over all ranks. Collective call."""
        total = TrainingAccumulator(len(self._counts), self._counts.device)
        total._loss.copy_(world.sum_(self._loss.clone()))
        total._counts.copy_(world.sum_(self._counts.clone()))
        return total

    def result(self) -> TrainingResult:
        """The metrics, on the host; this synchronises with the device."""
        counts = self._counts.cpu()
        correct, samples = counts[:, 0], counts[:, -1]
        divisor = int(samples.sum()) or math.nan
        return TrainingResult(
            samples=int(samples.sum()),
            loss=float(self._loss) / divisor,
            top1=int(correct.sum()) / divisor,
            top5=int(counts[:, :-1].sum()) / divisor,
            class_correct=tuple(correct.tolist()),
            class_samples=tuple(samples.tolist()),
        )
