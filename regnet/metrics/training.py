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
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.top5 = torch.zeros((), dtype=torch.int64, device=device)
        self.class_correct = torch.zeros(classes, dtype=torch.int64, device=device)
        self.class_samples = torch.zeros(classes, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor, loss_sum: Tensor, counted: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            logits: (n, classes).
            labels: int64 (n,).
            loss_sum: sum of the n losses.
            counted: bool () on the device; the batch is ignored if it is false. None for always true.
        """
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)
        ones = torch.ones_like(labels)
        if counted is not None:
            hits, ones, loss_sum = hits & counted, ones * counted, loss_sum.where(counted, 0)
        self.loss += loss_sum
        self.top5 += hits.sum()
        self.class_correct.index_add_(0, labels, hits[:, 0].long())
        self.class_samples.index_add_(0, labels, ones)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, counter in vars(self).items():
            counter.copy_(state[name])

    def summed(self, world: World) -> "TrainingAccumulator":
        """A new accumulator with the sums over all ranks. Collective call."""
        total = TrainingAccumulator(len(self.class_samples), self.loss.device)
        counts = world.sum_(torch.cat([self.top5.view(1), self.class_correct, self.class_samples]))
        total.loss.copy_(world.sum_(self.loss.clone()))
        for counter, count in zip(
            (total.top5, total.class_correct, total.class_samples),
            counts.split([1, *[len(self.class_samples)] * 2]),
            strict=True,
        ):
            counter.copy_(count.view_as(counter))
        return total

    def result(self) -> TrainingResult:
        """The metrics, on the host; this synchronises with the device."""
        samples = int(self.class_samples.sum())
        divisor = samples or math.nan
        return TrainingResult(
            samples=samples,
            loss=float(self.loss) / divisor,
            top1=int(self.class_correct.sum()) / divisor,
            top5=int(self.top5) / divisor,
            class_correct=tuple(self.class_correct.tolist()),
            class_samples=tuple(self.class_samples.tolist()),
        )
