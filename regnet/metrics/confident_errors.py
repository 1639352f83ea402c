"""The samples that a network got wrong while it was most certain, kept to be looked at."""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from regnet.distributed.world import World

KEPT = 24


@dataclass(frozen=True)
class ConfidentErrors:
    """Samples, the most confident first.

    Attributes:
        confidence: float32 (n,), of the class that they were predicted as, 0 to 1.
        labels, predicted: int64 (n,).
        images: float32 (n, 3, H, W), as the network saw them.
    """

    confidence: Tensor
    labels: Tensor
    predicted: Tensor
    images: Tensor

    @classmethod
    def of(cls, images: Tensor, logits: Tensor, labels: Tensor) -> "ConfidentErrors":
        """The worst of a batch; those that were right come last, with a confidence of -1."""
        confidence, predicted = logits.softmax(1).max(1)
        wrong = (predicted != labels) & confidence.isfinite()
        return cls(confidence.where(wrong, -1.0), labels, predicted, images).worst()

    def worst(self) -> "ConfidentErrors":
        return self[self.confidence.topk(min(KEPT, len(self.confidence))).indices]

    def __getitem__(self, which: Tensor) -> "ConfidentErrors":
        return ConfidentErrors(*(part[which] for part in vars(self).values()))

    def __add__(self, other: "ConfidentErrors") -> "ConfidentErrors":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return ConfidentErrors(*(torch.cat(pair) for pair in pairs))


class ConfidentErrorCollector:
    """Those of all batches so far; asks the device nothing until they are gathered."""

    def __init__(self) -> None:
        self._kept: ConfidentErrors | None = None

    def update(self, images: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: images (n, 3, H, W), logits (n, classes), labels int64 (n,)."""
        found = ConfidentErrors.of(images.float(), logits, labels)
        self._kept = found if self._kept is None else (self._kept + found).worst()

    def gathered(self, world: World) -> ConfidentErrors:
        """Those of all ranks, one of which has seen a sample, on the CPU. All ranks call it together."""
        own = None if self._kept is None else ConfidentErrors(*(part.cpu() for part in vars(self._kept).values()))
        # Only the worst of all are sent: images of all ranks would be too much for each of many.
        of_ranks = world.gather([] if own is None else own.confidence.tolist())
        bar = sorted(chain.from_iterable(of_ranks), reverse=True)[:KEPT][-1]
        sent = None if own is None else own[own.confidence >= bar]
        found = [part for part in world.gather(sent) if part is not None]
        together = sum(found[1:], found[0]).worst()
        return together[together.confidence >= 0]
