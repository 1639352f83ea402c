"""The tables of an FFCV file, version 2: what FFCV's Reader reads, without the import of FFCV, numba and OpenCV.

A run whose images are raw and cached on the device decodes nothing, and so starts without them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.errors import DataError

IMAGE_MODES = {"jpg": 0, "raw": 1}  # how an image is stored: `mode` in the table of samples

_VERSION = 2
_FIELDS = [2, 1, 1]  # FFCV's numbers for the types of image, label and id
_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("allocations", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_SAMPLE = np.dtype([("f0", _IMAGE), ("f1", "<i8"), ("f2", "<i8")], align=True)
_ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])


class ShardTables(NamedTuple):
    """The tables of a file.

    Attributes:
        samples: one record per sample; fields f0, f1 and f2 are image, label and id, as FFCV's compiled code expects.
        allocations: position and size, in bytes, of every stored image.
    """

    samples: np.ndarray
    allocations: np.ndarray


def read_tables(path: Path) -> ShardTables:
    """Reads the tables of a shard.

    Raises:
        DataError: it is no FFCV file of this version, or does not hold images, labels and ids.
    """
    with open(path, "rb") as file:
        header = np.fromfile(file, _HEADER, 1)
        if len(header) < 1 or header["version"][0] != _VERSION or header["fields"][0] != len(_FIELDS):
            raise _not_a_shard(path)
        if np.fromfile(file, _FIELD, len(_FIELDS))["type"].tolist() != _FIELDS:
            raise _not_a_shard(path)
        samples = np.fromfile(file, _SAMPLE, int(header["samples"][0]))
        file.seek(int(header["allocations"][0]))
        return ShardTables(samples, np.fromfile(file, _ALLOCATION))


def _not_a_shard(path: Path) -> DataError:
    return DataError(
        f"{path}: not an FFCV file (version {_VERSION}) of images, labels and ids; "
        "convert the images again: python -m data.convert --overwrite"
    )
