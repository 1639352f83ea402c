"""Counters that stay on the device and are summed over the ranks once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regnet.distributed.world import World


@dataclass(frozen=True)
class Result:
    """What was counted over all ranks, each sample once.

    Attributes:
        samples: how many.
        loss: mean of the samples.
        top1, top5: share of samples whose label was the first, or among the first five, 0 to 1.
        class_correct, class_samples: of each class.
    """

    samples: int
    loss: float
    top1: float
    top5: float
    class_correct: tuple[int, ...]
    class_samples: tuple[int, ...]

    @property
    def class_accuracy(self) -> tuple[float, ...]:
        """0 to 1; not a number for a class without samples."""
        pairs = zip(self.class_correct, self.class_samples, strict=True)
        return tuple(correct / samples if samples else float("nan") for correct, samples in pairs)


class TrainingAccumulator:
    """Sums over samples: losses in float64, all else in int64.

    Counts are exact, so they are the same however samples are spread over ranks.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.top5 = torch.zeros((), dtype=torch.int64, device=device)
        self.class_correct = torch.zeros(classes, dtype=torch.int64, device=device)
        self.class_samples = torch.zeros(classes, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor, loss_sum: Tensor, counted: Tensor | None = None) -> None:
        """Adds a batch: logits (n, classes), labels int64 (n,), the sum of the n losses.

        `counted`, a bool () on the device, tells whether to do so at all; None for always.
        """
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)
        once = torch.ones_like(labels)
        if counted is not None:
            best, once, loss_sum = best & counted, once * counted, loss_sum.where(counted, 0)
        self.loss += loss_sum
        self.top5 += best.sum()
        self.class_correct.index_add_(0, labels, best[:, 0].long())
        self.class_samples.index_add_(0, labels, once)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, counter in vars(self).items():
            counter.copy_(state[name])

    def summed(self, world: World) -> "TrainingAccumulator":
        """A copy that holds the sum over all ranks."""
        total = TrainingAccumulator(len(self.class_samples), self.loss.device)
        whole = world.sum_(torch.cat([self.top5.view(1), self.class_correct, self.class_samples]))
        total.loss.copy_(world.sum_(self.loss.clone()))
        for counter, part in zip(
            (total.top5, total.class_correct, total.class_samples),
            whole.split([1, *[len(self.class_samples)] * 2]),
            strict=True,
        ):
            counter.copy_(part.view_as(counter))
        return total

    def result(self) -> Result:
        """The numbers, on the host: the one place that waits for the device."""
        samples = int(self.class_samples.sum())
        divisor = samples or math.nan
        return Result(
            samples=samples,
            loss=float(self.loss) / divisor,
            top1=int(self.class_correct.sum()) / divisor,
            top5=int(self.top5) / divisor,
            class_correct=tuple(self.class_correct.tolist()),
            class_samples=tuple(self.class_samples.tolist()),
        )
