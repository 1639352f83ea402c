"""The most confident errors: misclassified samples with the highest predicted probability, kept for inspection."""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from regnet.distributed.world import World

MAX_ERRORS = 24


@dataclass(frozen=True)
class ConfidentErrors:
    """Misclassified samples in order of decreasing confidence.

    Attributes:
        confidence: float32 (n,), probability of the predicted class, 0 to 1.
        labels, predicted: int64 (n,).
        images: float32 (n, 3, H, W), the input of the network.
    """

    confidence: Tensor
    labels: Tensor
    predicted: Tensor
    images: Tensor

    @classmethod
    def from_batch(cls, images: Tensor, logits: Tensor, labels: Tensor) -> "ConfidentErrors":
        """The most confident errors of a batch; correctly classified samples come last, with a confidence of -1."""
        confidence, predicted = logits.softmax(1).max(1)
        wrong = (predicted != labels) & confidence.isfinite()
        return cls(confidence.where(wrong, -1.0), labels, predicted, images).top()

    def top(self) -> "ConfidentErrors":
        """At most MAX_ERRORS samples, sorted."""
        return self[self.confidence.topk(min(MAX_ERRORS, len(self.confidence))).indices]

    def cpu(self) -> "ConfidentErrors":
        return ConfidentErrors(*(tensor.cpu() for tensor in vars(self).values()))

    def __getitem__(self, index: Tensor) -> "ConfidentErrors":
        return ConfidentErrors(*(tensor[index] for tensor in vars(self).values()))

    def __add__(self, other: "ConfidentErrors") -> "ConfidentErrors":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return ConfidentErrors(*(torch.cat(pair) for pair in pairs))


class ConfidentErrorAccumulator:
    """The most confident errors of all batches so far, kept on the device without synchronising until `result`."""

    def __init__(self) -> None:
        self._errors: ConfidentErrors | None = None

    def update(self, images: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: images (n, 3, H, W), logits (n, classes), labels int64 (n,)."""
        errors = ConfidentErrors.from_batch(images.float(), logits, labels)
        self._errors = errors if self._errors is None else (self._errors + errors).top()

    def result(self, world: World) -> ConfidentErrors:
        """The most confident errors of all ranks, on the CPU. Collective call; some rank must have seen a sample."""
        local = None if self._errors is None else self._errors.cpu()
        # Confidences first, so that no rank sends images that are not among the top of all ranks.
        confidences = world.gather([] if local is None else local.confidence.tolist())
        threshold = sorted(chain.from_iterable(confidences), reverse=True)[:MAX_ERRORS][-1]
        candidates = None if local is None else local[local.confidence >= threshold]
        gathered = [errors for errors in world.gather(candidates) if errors is not None]
        top = sum(gathered[1:], gathered[0]).top()
        return top[top.confidence >= 0]
