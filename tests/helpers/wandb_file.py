"""Reads what wandb has recorded of an offline run; the record types come from wandb.proto."""

import json
from pathlib import Path

from regnet.tracking.wandb_parts import read_records


def _items(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(path: Path) -> dict:
    """The content of a run.

    Keys: id, config, rows (the history), summary, metrics (step axis and summary of each), artifacts, and stats (the
    number of system-metric records).
    """
    run: dict = {"rows": [], "summary": {}, "config": {}, "metrics": {}, "artifacts": [], "stats": 0}
    for record in read_records(path):
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
