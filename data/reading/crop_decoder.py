"""FFCV's decoder for a part of each image, resized: where that part is, the caller says for every sample."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from data.reading.ffcv_imports import (
    IMAGE_MODES,
    AllocationQuery,
    Compiler,
    SimpleRGBImageDecoder,
    State,
    imdecode,
    memcpy,
    resize_crop,
)


class BoxDecoder(SimpleRGBImageDecoder):
    """Images of any sizes, raw or JPEG -> uint8 (N, side, side, 3), resized by OpenCV's INTER_AREA.

    FFCV's own random decoders draw from numpy's generator, so that an image would depend on the thread and the
    batch that it comes in. This one takes its boxes from the third of the storage's tables, int64 (samples, 4), and
    marks in the fourth, uint8 (samples,), what it could not decode: in a thread of numba's it cannot raise.
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
            for place in each(len(batch_indices)):
                sample = batch_indices[place]
                image = metadata[sample]
                stored = read(image["data_ptr"], storage_state)
                height, width = np.uint32(image["height"]), np.uint32(image["width"])
                # Memory for one image of each thread; FFCV has it for all images of all batches ahead.
                pixels = np.empty((height, width, 3), np.uint8)
                if image["mode"] == jpeg:
                    status = decode_jpeg(stored, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                    if status != 0:
                        storage_state[3][sample] = 1
                else:
                    copy(stored, pixels)
                box = storage_state[2][sample]
                resize(pixels, box[0], box[0] + box[2], box[1], box[1] + box[3], destination[place])
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode
