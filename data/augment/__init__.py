"""Augmentation of training images, in batches and on the device.

An augmentation takes three places: an option in `AugmentConfig` (regnet/config/schema.py), a member of
`data.rng.Purpose` for every kind of random number it needs, and its code here: a transform that names the numbers as
`columns` and receives them as tensors, applied in `image_transforms` (stored bytes) or `pipeline` (normalised images).
RandomResizedCrop is an exception: random_resized_crop computes the boxes, and data.reading.crop_decoder crops while it
decodes.
"""

from typing import Any

AugmentOptions = Any  # regnet's AugmentConfig, which data/ must not import; read by attribute
