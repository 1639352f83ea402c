"""The parts of FFCV that this project uses, imported without FFCV's side effects.

Importing FFCV sets PyTorch to one thread and builds a numba dictionary of two entries, which compiles for seconds. The
entries are only read as constants, for which a plain dictionary is enough.
"""

import numba.typed
import torch

_threads, _numba_dict = torch.get_num_threads(), numba.typed.Dict
numba.typed.Dict = dict
try:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode, memcpy, resize_crop
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.graph import Graph
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.pipeline_spec import PipelineSpec
    from ffcv.pipeline.state import State
    from ffcv.transforms import ToTensor
    from ffcv.transforms.common import Squeeze
    from ffcv.utils import cast_int_to_byte_ptr
    from ffcv.writer import MIN_PAGE_SIZE, DatasetWriter
finally:
    numba.typed.Dict = _numba_dict
    torch.set_num_threads(_threads)

__all__ = [
    "MIN_PAGE_SIZE",
    "AllocationQuery",
    "Compiler",
    "DatasetWriter",
    "EpochIterator",
    "Graph",
    "IntDecoder",
    "IntField",
    "MemoryAllocator",
    "Operation",
    "PipelineSpec",
    "RGBImageField",
    "SimpleRGBImageDecoder",
    "Squeeze",
    "State",
    "ToTensor",
    "cast_int_to_byte_ptr",
    "imdecode",
    "memcpy",
    "resize_crop",
]
