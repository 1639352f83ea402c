"""Mixup and CutMix, decided for each sample separately.

A sample is mixed with any sample of the training set, not with one of its batch, so that the result depends on
(seed, epoch, sample id) alone and not on the number of processes; see data.rng.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.rng import EpochNumber, Purpose, integers, uniforms


@dataclass(frozen=True)
class MixupCutmix:
    """Mixes samples with others, and their targets in the same proportion.

    Lambda, the fraction that a sample keeps, is uniform in 0..1: the papers' Beta(1, 1).

    Attributes:
        mixup_prob: probability that a sample is blended with its partner (Zhang et al., mixup, 2018).
        cutmix_prob: probability that a rectangle of its partner is pasted into a sample (Yun et al., CutMix, 2019).
        samples, classes: numbers of samples and classes of the training set.
        seed: seed of the random numbers.
    """

    mixup_prob: float
    cutmix_prob: float
    samples: int
    classes: int
    seed: int

    @property
    def enabled(self) -> bool:
        return self.mixup_prob + self.cutmix_prob > 0

    def partners(self, ids: Tensor, epoch: EpochNumber) -> Tensor:
        """Ids of the samples that these are mixed with: int64 (n,)."""
        return integers(self.seed, epoch, Purpose.mix_partner, ids, self.samples)

    def mix(self, images: Tensor, labels: Tensor, ids: Tensor, epoch: EpochNumber) -> tuple[Tensor, Tensor]:
        """Mixes the first n of 2n images and labels, samples `ids`, with the last n, their partners.

        Returns:
            float32 (n, 3, H, W), and targets, float32 (n, classes).
        """
        own, partners = images.chunk(2)
        weights = self._weights(ids, epoch, own.shape[-1])
        lambdas = weights.mean((1, 2, 3)).unsqueeze(1)
        own_targets, partner_targets = F.one_hot(labels, self.classes).to(own.dtype).chunk(2)
        return torch.lerp(partners, own, weights), torch.lerp(partner_targets, own_targets, lambdas)

    def _weights(self, ids: Tensor, epoch: EpochNumber, side: int) -> Tensor:
        """Weight of the sample's own pixels, 0 to 1: float32 (n, 1, side, side)."""

        def uniform(purpose: Purpose) -> Tensor:
            return uniforms(self.seed, epoch, purpose, ids).view(-1, 1, 1, 1)

        kind, lambda_ = uniform(Purpose.mix_kind), uniform(Purpose.mix_lambda)
        half = (1 - lambda_).sqrt() / 2  # of the rectangle's side; what lies beyond the image's edge is lost
        centres = (torch.arange(side, device=ids.device) + 0.5) / side
        in_rows = (centres.view(1, 1, -1, 1) - uniform(Purpose.mix_row)).abs() < half
        in_columns = (centres.view(1, 1, 1, -1) - uniform(Purpose.mix_column)).abs() < half
        outside = ~(in_rows & in_columns)
        blended = torch.where(kind < self.mixup_prob, lambda_, torch.ones_like(lambda_))
        return torch.where((kind >= self.mixup_prob) & (kind < self.mixup_prob + self.cutmix_prob), outside, blended)
