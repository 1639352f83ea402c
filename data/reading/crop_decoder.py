"""An FFCV decoder that crops every image to a given box and resizes the crop.

Whole images use FFCV's SimpleRGBImageDecoder: see ffcv_pipeline.compiled_pipeline.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.reading.ffcv_imports import (
    AllocationQuery,
    Compiler,
    SimpleRGBImageDecoder,
    State,
    imdecode,
    memcpy,
    resize_crop,
)
from data.reading.shard_tables import IMAGE_MODES


class CropDecoder(SimpleRGBImageDecoder):
    """Images of any size, raw or JPEG -> uint8 (N, side, side, 3), resized with OpenCV's INTER_AREA.

    FFCV's own random decoders use numpy's generator, so that a crop would depend on the thread and the batch. This one
    reads its boxes from the third array of the storage's state, int64 (samples, 4). It flags samples that it could not
    decode in the fourth, uint8 (samples,), because it cannot raise in numba's threads.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (self.side, self.side, 3), np.dtype("<u1")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable:
        read, jpeg, each = self.memory_read, IMAGE_MODES["jpg"], Compiler.get_iterator()
        decode_jpeg, resize, copy = (Compiler.compile(function) for function in (imdecode, resize_crop, memcpy))

        def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]  # for numba
            for position in each(len(batch_indices)):
                sample = batch_indices[position]
                image = metadata[sample]
                stored = read(image["data_ptr"], storage_state)
                height, width = np.uint32(image["height"]), np.uint32(image["width"])
                # Memory for one image per thread; FFCV allocates it for all images of all prefetched batches.
                pixels = np.empty((height, width, 3), np.uint8)
                if image["mode"] == jpeg:
                    status = decode_jpeg(stored, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                    if status != 0:
                        storage_state[3][sample] = 1
                else:
                    copy(stored, pixels)
                box = storage_state[2][sample]
                resize(pixels, box[0], box[0] + box[2], box[1], box[1] + box[3], destination[position])
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode
