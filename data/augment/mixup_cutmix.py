"""Two images in one: Mixup and CutMix, drawn for each sample by itself.

A sample's partner is any sample of the training set, not one of its batch, so that what becomes of it depends on
(seed, epoch, sample id) alone, however many processes there are; see data.draws.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.rng import Epoch, Purpose, integers, uniforms


@dataclass
class MixupCutmix:
    """What is mixed, and how often.

    Attributes:
        mixup: share of samples blended with their partner (Zhang et al., mixup, 2018), 0 to 1.
        cutmix: share of samples with a rectangle of their partner in it (Yun et al., CutMix, 2019), 0 to 1.
        samples, classes: of the training set.
        seed: of the draws. What a sample keeps of itself is uniform in 0..1: the papers' Beta(1, 1).
    """

    mixup: float
    cutmix: float
    samples: int
    classes: int
    seed: int

    @property
    def wanted(self) -> bool:
        return self.mixup + self.cutmix > 0

    def partners(self, ids: Tensor, epoch: Epoch) -> Tensor:
        """Whom each sample is mixed with: ids, int64 (n,)."""
        return integers(self.seed, epoch, Purpose.mix_partner, ids, self.samples)

    def mixed(self, images: Tensor, labels: Tensor, ids: Tensor, epoch: Epoch) -> tuple[Tensor, Tensor]:
        """The samples `ids`, the n first of 2n images and labels, with parts of the n last, their partners.

        Returns:
            float32 (n, 3, H, W), and targets, float32 (n, classes), in proportion to the parts.
        """
        own, others = images.chunk(2)
        kept = self._kept(ids, epoch, own.shape[-1])
        shares = kept.mean((1, 2, 3)).unsqueeze(1)
        own_targets, other_targets = F.one_hot(labels, self.classes).to(own.dtype).chunk(2)
        return torch.lerp(others, own, kept), torch.lerp(other_targets, own_targets, shares)

    def _kept(self, ids: Tensor, epoch: Epoch, side: int) -> Tensor:
        """How much each pixel keeps of its own: float32 (n, 1, side, side)."""

        def draw(purpose: Purpose) -> Tensor:
            return uniforms(self.seed, epoch, purpose, ids).view(-1, 1, 1, 1)

        kind, share = draw(Purpose.mix_kind), draw(Purpose.mix_share)
        half = (1 - share).sqrt() / 2  # of the rectangle's side; what is beyond the image's edge is lost
        place = (torch.arange(side, device=ids.device) + 0.5) / side
        in_rows = (place.view(1, 1, -1, 1) - draw(Purpose.mix_row)).abs() < half
        in_columns = (place.view(1, 1, 1, -1) - draw(Purpose.mix_column)).abs() < half
        cut = ~(in_rows & in_columns)
        blended = torch.where(kind < self.mixup, share, torch.ones_like(share))
        return torch.where((kind >= self.mixup) & (kind < self.mixup + self.cutmix), cut, blended)
