"""What a process that others are forked from has done for them: imports, and numba's first compilation."""

import torch._dynamo
import torch.distributed.fsdp

import data.encode
import data.sources
import regnet.doctor.command
import regnet.report.page
import train_ddp
from data.reader import _MappedShards

_MappedShards.compile_read()
__all__ = ["data", "regnet", "torch", "train_ddp"]
