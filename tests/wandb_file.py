"""Reads an offline W&B run back: a .wandb file is a LevelDB log of protocol buffers after a header of 7 bytes.

W&B has no public reader; the record types are its own, from wandb.proto.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")  # checksum, length, type
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    content, at, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + HEADER.size <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            at += left
            continue
        _, length, kind = HEADER.unpack_from(content, at)
        if kind == 0:
            at += left
            continue
        at += HEADER.size
        parts = (b"" if kind in (WHOLE, FIRST) else parts) + content[at : at + length]
        at += length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def _items(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(path: Path) -> dict:
    """What a run recorded.

    id, config, rows (its history), summary, metrics (their axes and what stands for the run), artifacts, and how many
    records of system metrics.
    """
    run: dict = {"rows": [], "summary": {}, "config": {}, "metrics": {}, "artifacts": [], "stats": 0}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"] = record.run.run_id
            run["config"] |= _items(record.run.config.update)
        elif kind == "config":
            run["config"] |= _items(record.config.update)
        elif kind == "metric":
            metric = record.metric
            run["metrics"][metric.name or metric.glob_name] = metric.step_metric, metric.summary
        elif kind == "artifact":
            run["artifacts"].append(record.artifact)
        elif kind == "history":
            run["rows"].append(_items(record.history.item))
        elif kind == "summary":
            run["summary"] |= _items(record.summary.update)
        elif kind == "stats":
            run["stats"] += 1
    return run
