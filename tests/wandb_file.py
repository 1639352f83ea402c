"""Reads an offline W&B run. A .wandb file is a 7-byte header followed by a LevelDB log of protocol buffers.

W&B has no public reader; the record types come from wandb.proto.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")  # checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    content, position, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while position + HEADER.size <= len(content):
        remaining = BLOCK - position % BLOCK
        if remaining < HEADER.size:
            position += remaining
            continue
        _, length, kind = HEADER.unpack_from(content, position)
        if kind == 0:
            position += remaining
            continue
        position += HEADER.size
        parts = (b"" if kind in (FULL, FIRST) else parts) + content[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def _items(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(path: Path) -> dict:
    """The content of a run.

    Keys: id, config, rows (the history), summary, metrics (step axis and summary of each), artifacts, and stats (the
    number of system-metric records).
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
