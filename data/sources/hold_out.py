"""A validation split from training images, stratified by class."""

import torch

from data.errors import DataError
from data.rng import Purpose, hashes
from data.sources.source import Images, Source, Subset


def hold_out(source: Source, amount: int | float) -> Source:
    """A source whose validation split is taken from its training images; the choice is always the same.

    Args:
        amount: number of validation images, in proportion to the classes; or, as a float, the fraction of every class,
            and at least one image of every class that has two.

    Raises:
        DataError: too few images would remain for training.
    """
    images = source.train
    labels = torch.tensor(images.targets)
    counts = labels.bincount(minlength=len(images.classes)).tolist()
    quotas = _of_every_class(counts, amount) if isinstance(amount, float) else _in_proportion(counts, amount)
    order = hashes(0, 0, Purpose.hold_out, torch.arange(len(labels))).argsort(stable=True)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in enumerate(quotas):
        held_out[order[labels[order] == label][:quota]] = True
    return _split(images, source, {"train": ~held_out, "val": held_out})


def _split(images: Images, source: Source, masks: dict[str, torch.Tensor]) -> Source:
    indices = {split: mask.nonzero().flatten().tolist() for split, mask in masks.items()}
    return Source(
        Subset(images, indices["train"]),
        Subset(images, indices["val"]),
        lambda split, index: source.name("train", indices[split][index]),
        lambda split, index: source.path("train", indices[split][index]),
    )


def _of_every_class(counts: list[int], fraction: float) -> list[int]:
    quotas = [min(max(1, round(fraction * count)), count - 1) for count in counts]
    if not any(quotas):
        raise DataError(
            f"{sum(counts)} training images in {len(counts)} classes are too few for a validation split: "
            "a class needs at least 2"
        )
    return quotas


def _in_proportion(counts: list[int], total: int) -> list[int]:
    """Largest remainders; every class keeps an image for training."""
    limits = [count - 1 for count in counts]
    if total > sum(limits):
        raise DataError(
            f"--hold-out {total} is too large: of {sum(counts)} training images in {len(counts)} classes, every class "
            f"keeps one for training, so it can be {sum(limits)} at most"
        )
    exact = [total * count / sum(counts) for count in counts]
    quotas = [min(int(quota), limit) for quota, limit in zip(exact, limits, strict=True)]
    while sum(quotas) < total:
        extendable = [label for label, limit in enumerate(limits) if quotas[label] < limit]
        quotas[max(extendable, key=lambda label: exact[label] - quotas[label])] += 1
    return quotas
