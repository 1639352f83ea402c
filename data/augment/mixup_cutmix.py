"""Mixup and CutMix, decided for each sample separately.

A sample is mixed with any sample of the training set, not with one of its batch, so that the result depends on
(seed, epoch, sample id) alone and not on the number of processes; see data.rng.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from data.rng import UNIFORM, Column, Purpose, integers, to_uniform


@dataclass(frozen=True)
class MixupCutmix:
    """Mixes samples with others, and their targets in the same proportion.

    Lambda, the fraction that a sample keeps, is uniform in 0..1: the papers' Beta(1, 1).

    Attributes:
        columns: the random numbers that `mix` needs of each sample.
        mixup_prob: probability that a sample is blended with its partner (Zhang et al., mixup, 2018).
        cutmix_prob: probability that a rectangle of its partner is pasted into a sample (Yun et al., CutMix, 2019).
        samples, classes: numbers of samples and classes of the training set.
    """

    # kind, lambda, and the centre of the rectangle
    columns: ClassVar[tuple[Column, ...]] = tuple(
        Column(purpose, UNIFORM)
        for purpose in (Purpose.mix_kind, Purpose.mix_lambda, Purpose.mix_row, Purpose.mix_column)
    )
    mixup_prob: float
    cutmix_prob: float
    samples: int
    classes: int

    @property
    def enabled(self) -> bool:
        return self.mixup_prob + self.cutmix_prob > 0

    def partners(self, seed: int, epoch: int, ids: Tensor) -> Tensor:
        """Ids of the samples that these are mixed with: int64 (n,)."""
        return integers(seed, epoch, Purpose.mix_partner, ids, self.samples)

    def mix(self, images: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes the first n of 2n images and labels with the last n, their partners.

        Args:
            numbers: random numbers of the first n samples, int64 (n, columns).

        Returns:
            float32 (n, 3, H, W), and targets, float32 (n, classes).
        """
        own, partners = images.chunk(2)
        weights = self._weights(to_uniform(numbers), own.shape[-1])
        lambdas = weights.mean((1, 2, 3)).unsqueeze(1)
        own_targets, partner_targets = F.one_hot(labels, self.classes).to(own.dtype).chunk(2)
        return torch.lerp(partners, own, weights), torch.lerp(partner_targets, own_targets, lambdas)

    def _weights(self, uniform: Tensor, side: int) -> Tensor:
        """Weight of the sample's own pixels, 0 to 1: float32 (n, 1, side, side)."""
        kind, lambda_ = uniform[:, :2].view(-1, 2, 1, 1, 1).unbind(1)
        half = (1 - lambda_).sqrt() / 2  # of the rectangle's side; what lies beyond the image's edge is lost
        positions = (torch.arange(side, device=uniform.device) + 0.5) / side
        in_rows, in_columns = ((positions - uniform[:, 2:].unsqueeze(2)).abs() < half.view(-1, 1, 1)).unbind(1)
        outside = ~(in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1)
        unmixed_or_outside = outside | (kind >= self.mixup_prob + self.cutmix_prob)
        return torch.where(kind < self.mixup_prob, lambda_, unmixed_or_outside)
