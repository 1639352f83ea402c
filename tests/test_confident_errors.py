"""The most confident errors, compared with a sort of all samples."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from regnet.distributed.world import World
from regnet.metrics.confident_errors import MAX_ERRORS, ConfidentErrorAccumulator

SINGLE_PROCESS = World(0, 1, 0, torch.device("cpu"), None, None)


@given(st.integers(0, 2**31), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.booleans())
def test_the_result_is_the_most_confident_errors_of_all_batches(seed, sizes, with_nan):
    generator = torch.Generator().manual_seed(seed)
    accumulator, errors = ConfidentErrorAccumulator(), []
    for size in sizes:
        logits, labels = torch.randn(size, 5, generator=generator), torch.randint(5, (size,), generator=generator)
        if with_nan:
            logits[0] = torch.nan
        images = torch.rand(size, 3, 2, 2, generator=generator)
        accumulator.update(images, logits, labels)
        probabilities = logits.softmax(1)
        for index in range(size):
            confidence, predicted = probabilities[index].max(0)
            if predicted != labels[index] and confidence.isfinite():
                errors.append((confidence.item(), int(labels[index]), int(predicted), images[index].tolist()))
    top = accumulator.result(SINGLE_PROCESS)
    expected = sorted(errors, key=lambda error: -error[0])[:MAX_ERRORS]
    rows = zip(top.confidence, top.labels, top.predicted, top.images, strict=True)
    assert [(c.item(), int(label), int(predicted), image.tolist()) for c, label, predicted, image in rows] == expected
