"""The most confident mistakes, against all samples sorted by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regnet.distributed.world import World
from regnet.metrics.confident_errors import MAX_ERRORS, ConfidentErrorAccumulator

ALONE = World(0, 1, 0, torch.device("cpu"), None, None)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.booleans())
def test_they_are_the_worst_of_all_batches(seed, sizes, some_are_no_numbers):
    generator = torch.Generator().manual_seed(seed)
    kept, seen = ConfidentErrorAccumulator(), []
    for size in sizes:
        logits, labels = torch.randn(size, 5, generator=generator), torch.randint(5, (size,), generator=generator)
        if some_are_no_numbers:
            logits[0] = torch.nan
        images = torch.rand(size, 3, 2, 2, generator=generator)
        kept.update(images, logits, labels)
        probabilities = logits.softmax(1)
        for index in range(size):
            confidence, predicted = probabilities[index].max(0)
            if predicted != labels[index] and confidence.isfinite():
                seen.append((confidence.item(), int(labels[index]), int(predicted), images[index].tolist()))
    found = kept.result(ALONE)
    expected = sorted(seen, key=lambda sample: -sample[0])[:MAX_ERRORS]
    told = zip(found.confidence, found.labels, found.predicted, found.images, strict=True)
    assert [(c.item(), int(label), int(predicted), image.tolist()) for c, label, predicted, image in told] == expected
