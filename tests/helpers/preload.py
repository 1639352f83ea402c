"""Preloaded by the fork server (fork_server.py): slow imports, and the compilation of FFCV's pipeline."""

import contextlib
import io
import tempfile
from pathlib import Path

import torch._dynamo
import torch.distributed.fsdp
from limits import LIMIT

import data.convert
import data.sources.registry
import regnet.doctor.command
import regnet.report.html_report
import train_ddp
from data.manifest import read_manifest
from data.reading.shard_reader import ShardReader

with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    command = ["--source", "synthetic", "--per-class", "1", "--out", folder, "--shards", "1", "--workers", "1"]
    assert data.convert.main(command) == 0
    reader = ShardReader(Path(folder), read_manifest(Path(folder)), 10, workers=1, prefetch_batches=1, timeout=LIMIT)
    # numba compiles most of the pipeline on its first call.
    assert len(list(reader.read("train", [torch.arange(10)]))) == 1
__all__ = ["data", "regnet", "torch", "train_ddp"]
