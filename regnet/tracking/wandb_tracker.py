"""Weights & Biases; never the record, and never a reason for a run to wait or end."""

import os
import queue
import resource
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from regnet.config.schema import Config, plain
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.directory import RunDirectory
from regnet.tracking.base import EpochReport, StepReport, Tracker

MOST_CELLS = 10_000  # rows of a table that Weights & Biases shows; a confusion matrix has more from 101 classes on
# What each group of charts is drawn over, and which of its values stands for the run, if not the last.
_CHARTS: dict[str, tuple[str, Literal["max", "min"] | None]] = {
    "train/*": ("step", None),
    "val/accuracy": ("epoch", "max"),
    "val/top5": ("epoch", "max"),
    "val/loss": ("epoch", "min"),
    "val/calibration_error": ("epoch", None),
    "time/*": ("epoch", None),
    "system/peak_memory_gb": ("epoch", "max"),
}


class WandbTracker(Tracker):
    """Weights & Biases; never the record, and never a reason for a run to wait or end.

    Its calls can block on the network and can raise whatever a server made them; all but the first are made in
    a thread of their own.

    Args:
        mode: online or offline.
        say: is told of the first call that fails.
    """

    def __init__(
        self, config: Config, directory: RunDirectory, mode: Literal["online", "offline"], say: Callable[[str], None]
    ) -> None:
        import wandb

        tracking, self.name = config.tracking, config.name
        settings = wandb.Settings(
            init_timeout=tracking.wandb_timeout,
            finish_timeout=tracking.wandb_timeout,
            console="off",
            silent=True,
        )
        self.run = wandb.init(
            project=tracking.wandb_project,
            group=tracking.wandb_group or None,
            name=config.name,
            id=directory.wandb_id,
            resume="allow",
            dir=directory.path,
            mode=mode,
            config=plain(asdict(config)),
            settings=settings,
        )
        self.say_failure, self.timeout = say, tracking.wandb_timeout
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self.best = directory.checkpoints / "best.pt" if tracking.wandb_artifact else None
        self._calls.put(self._define)

    def _work(self) -> None:
        failures = 0
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # theirs, of any kind; the run goes on without them
                failures += 1
                if failures == 1:
                    self.say_failure(f"Weights & Biases failed: {type(error).__name__}: {' '.join(str(error).split())}")

    def _define(self) -> None:
        for name, (axis, best) in _CHARTS.items():
            self.run.define_metric(name, step_metric=axis, summary=best)

    def steps(self, reports: list[StepReport]) -> None:
        self._calls.put(lambda: self._log_steps(reports))

    def _log_steps(self, reports: list[StepReport]) -> None:
        for report in reports:
            self.run.log({"step": report.step, "train/loss": report.loss, "train/lr": report.lr})

    def epoch(self, report: EpochReport) -> None:
        row = {
            "epoch": report.epoch,
            "step": report.step,
            "train/epoch_loss": report.train.loss,
            "train/accuracy": report.train.top1,
            "val/loss": report.val.loss,
            "val/accuracy": report.val.top1,
            "val/top5": report.val.top5,
            "val/calibration_error": report.val.calibration_error,
            "time/epoch_seconds": report.seconds,
            "time/images_per_second": report.images_per_second,
            "system/peak_memory_gb": peak_memory() / 1e9,
        }
        self._calls.put(lambda: self.run.log(row))

    def final(self, result: Mapping[str, Any], outcome: EvaluationFile) -> None:
        told = ("top1", "top5", "loss", "calibration_error")
        summary = {"best/accuracy": result["best_top1"], **{f"test/{name}": result[name] for name in told}}
        self._calls.put(lambda: self.run.summary.update(summary))
        self._calls.put(lambda: self.run.log(tables(result, outcome)))
        if self.best is not None:
            self._calls.put(self._send_best)

    def _send_best(self) -> None:
        import wandb

        artifact = wandb.Artifact(self.name, type="model", description="the checkpoint of the best epoch")
        artifact.add_file(str(self.best))
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, failed: bool) -> None:
        self._calls.put(lambda: self.run.finish(exit_code=int(failed)))
        self._calls.put(None)
        self._thread.join(2 * self.timeout)
        if self._thread.is_alive():
            self.say_failure("Weights & Biases does not answer: the run ends without it")


def peak_memory() -> int:
    """Bytes that this process has held at most: of the GPU where it uses one, else of the machine."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tables(result: Mapping[str, Any], outcome: EvaluationFile) -> dict[str, Any]:
    """Of the last evaluation: each class, how often each was predicted as each, the most confident errors."""
    import wandb

    names = outcome.classes.tolist()
    classes = [[name, result["class_accuracy"][name], result["class_samples"][name]] for name in names]
    fullest = np.argsort(-outcome.confusion, axis=None, kind="stable")[:MOST_CELLS]
    cells = [(*divmod(int(place), len(names)), int(outcome.confusion.flat[place])) for place in fullest]
    predicted = [[names[label], names[other], times] for label, other, times in sorted(cells) if times]
    errors = [
        [wandb.Image(image), names[label], names[other], float(confidence)]
        for image, label, other, confidence in zip(
            outcome.images, outcome.labels, outcome.predicted, outcome.confidence, strict=True
        )
    ]
    columns = ("Actual", "Predicted", "nPredictions")  # as the chart of this name calls them
    confusion = wandb.Table(columns=[*columns], data=predicted)
    fields = {column: column for column in columns}
    return {
        "val/classes": wandb.Table(columns=["class", "accuracy", "samples"], data=classes),
        "val/confusion": wandb.plot_table("wandb/confusion_matrix/v1", confusion, fields, {"title": "confusion"}),
        "val/confident_errors": wandb.Table(columns=["image", "class", "predicted as", "confidence"], data=errors),
    }


def open_wandb(config: Config, directory: RunDirectory, say: Callable[[str], None]) -> WandbTracker | None:
    """Weights & Biases as configured; offline, and said so, where there is no key or no server."""
    mode = config.tracking.wandb
    if mode == "disabled":
        return None
    # W&B's reports about itself wait for the server too, at the process's end, for as long as 30 s.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Tables and checkpoints wait there to be sent: with the run, not in a home that may be full or not be written.
    os.environ.setdefault("WANDB_DATA_DIR", str((directory.path / "wandb").absolute()))
    import wandb

    if mode == "auto":
        mode = "online" if has_wandb_key() else "offline"
    if mode == "online":
        try:
            return WandbTracker(config, directory, mode, say)
        except Exception as error:  # noqa: BLE001  # a server or a setting of theirs; the run goes on without
            say(f"Weights & Biases cannot be used online ({' '.join(str(error).split())})")
            wandb.teardown()  # its service still holds the run's id, and would refuse it to the offline run
    try:
        tracker = WandbTracker(config, directory, "offline", say)
    except Exception as error:  # noqa: BLE001  # likewise
        say(f"Weights & Biases cannot be used at all ({' '.join(str(error).split())})")
        return None
    say(f"Weights & Biases: recorded offline; send it with: wandb sync {Path(tracker.run.dir).parent}")
    return tracker


def has_wandb_key() -> bool:
    """Whether Weights & Biases can be used online: WANDB_API_KEY, or what `wandb login` left."""
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        return bool(os.environ.get("WANDB_API_KEY") or read_netrc_auth(host=wandb.Settings().base_url))
    except ValueError:  # a setting in the environment that W&B does not take; it is told when a run is begun
        return False
