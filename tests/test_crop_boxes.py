"""The boxes of RandomResizedCrop, computed one attempt after the other."""

import math

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from data.augment.random_resized_crop import RandomResizedCrop, center_crop
from data.rng import Purpose, integers, uniforms


def slow_box(height, width, sample, min_scale, seed, epoch):
    """The first of ten attempts that fits into the image, or the largest box, in the centre: top, left and size."""
    for attempt in range(10):
        key = torch.tensor([10 * sample + attempt])
        uniform_area = uniforms(seed, epoch, Purpose.rrc_area, key).item()
        area = (min_scale + (1 - min_scale) * uniform_area) * height * width
        ratio = math.exp((2 * uniforms(seed, epoch, Purpose.rrc_aspect_ratio, key).item() - 1) * math.log(4 / 3))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 1 <= crop_height <= height and 1 <= crop_width <= width:
            top = integers(seed, epoch, Purpose.rrc_row, key, height - crop_height + 1).item()
            left = integers(seed, epoch, Purpose.rrc_column, key, width - crop_width + 1).item()
            return [top, left, crop_height, crop_width]
    crop_height, crop_width = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return [(height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width]


sides = st.integers(1, 4) | st.integers(1, 400)


@given(
    sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=8),
    min_scale=st.sampled_from([0.01, 0.3, 1.0]),
    seed=st.integers(0, 2**62),
    epoch=st.integers(0, 100),
)
@example([(1, 1), (1, 2), (2, 1), (2, 2), (1, 50), (50, 1), (90, 100)], 0.01, 0, 0)
@example([(1, 1), (4, 3), (3, 4), (7, 7), (100, 9), (9, 100)], 1.0, 0, 0)
def test_boxes_agree_with_one_attempt_after_the_other(sizes, min_scale, seed, epoch):
    found = RandomResizedCrop(min_scale, seed).boxes(torch.tensor(sizes), epoch, 8)
    assert found.side == 8
    expected = [slow_box(*size, sample, min_scale, seed, epoch) for sample, size in enumerate(sizes)]
    assert found.boxes.tolist() == expected


def test_a_centre_crop_has_the_side_that_it_is_resized_to():
    assert center_crop(torch.tensor([[9, 7]]), 0.5, 24).side == 24
