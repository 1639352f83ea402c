"""FFCV is built against a small replacement of OpenCV: it resizes as OpenCV does.

The two can differ if one side grows while the other shrinks; no test does that.
"""

import cv2
import numpy as np
import pytest
from ffcv.libffcv import resize_crop


@pytest.mark.parametrize(("height", "width"), [(32, 32), (56, 40), (17, 23), (64, 64), (100, 80)])
def test_resize_agrees_with_opencv(height, width):
    source = np.random.default_rng(height).integers(0, 256, (47, 61, 3), dtype=np.uint8)
    ours = np.empty((height, width, 3), dtype=np.uint8)
    resize_crop(source, 3, 44, 5, 60, ours)
    theirs = cv2.resize(source[3:44, 5:60], (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
