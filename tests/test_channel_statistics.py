"""Channel statistics are exact for any images, in any order and division."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples

from data.writing import channel_statistics
from data.writing.channel_statistics import ChannelStatistics

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def images(shapes, seed):
    random = np.random.default_rng(seed)
    return [random.integers(0, random.integers(1, 257), (*shape, 3), dtype=np.uint8) for shape in shapes]


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(0, 2**32), st.sampled_from([7, 100, 1 << 24]))
@examples(100)
def test_counts_are_those_of_numpy(shapes, seed, largest):
    """Also if an image has more pixels than are counted at once."""
    pixels = images(shapes, seed)
    before, channel_statistics._LARGEST_COUNT = channel_statistics._LARGEST_COUNT, largest
    try:
        parts = [ChannelStatistics() for _ in range(2)]
        for index, image in enumerate(pixels):
            parts[index % 2].add(image)
    finally:
        channel_statistics._LARGEST_COUNT = before
    parts[0].merge(parts[1])
    joined = np.concatenate([image.reshape(-1, 3) for image in pixels])
    for channel in range(3):
        assert np.array_equal(parts[0].counts[channel], np.bincount(joined[:, channel], minlength=256))
    mean, std = parts[0].mean_and_std()
    assert mean == pytest.approx(tuple(joined.mean(0) / 255))
    assert std == pytest.approx(tuple(np.maximum(joined.std(0), 1) / 255), abs=1e-9)


def test_large_counts_are_exact():
    """A white image with more pixels than float32 counts exactly."""
    statistics = ChannelStatistics()
    statistics.add(np.broadcast_to(np.uint8(255), (4097, 4099, 3)))
    assert statistics.counts[:, 255].tolist() == [4097 * 4099] * 3
