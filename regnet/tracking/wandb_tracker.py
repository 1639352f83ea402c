"""Reports to Weights & Biases. Its failures never stop a run and delay it only by seconds."""

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

from regnet.config.schema import Config, to_plain_types
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.directory import RunDirectory
from regnet.tracking.base import EpochReport, StepReport, Tracker

MAX_ROWS = 10_000  # of a table that Weights & Biases shows; a confusion matrix has more from 101 classes on
# The x axis of each group of charts, and which of its values summarises the run, if not the last one.
_CHARTS: dict[str, tuple[str, Literal["max", "min"] | None]] = {
    "train/*": ("step", None),
    "val/top1": ("epoch", "max"),
    "val/top5": ("epoch", "max"),
    "val/loss": ("epoch", "min"),
    "val/calibration_error": ("epoch", None),
    "time/*": ("epoch", None),
    "system/peak_memory_gb": ("epoch", "max"),
}


class WandbTracker(Tracker):
    """One run at Weights & Biases.

    Calls of its library can block on the network and raise errors of any kind. All calls but wandb.init are made in a
    separate thread.

    Args:
        mode: online or offline.
        say: called with a message when the first call fails.
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
            config=to_plain_types(asdict(config)),
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
            except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues without them
                failures += 1
                if failures == 1:
                    self.say_failure(f"Weights & Biases failed: {type(error).__name__}: {' '.join(str(error).split())}")

    def _define(self) -> None:
        for name, (axis, best) in _CHARTS.items():
            self.run.define_metric(name, step_metric=axis, summary=best)

    def log_steps(self, reports: list[StepReport]) -> None:
        self._calls.put(lambda: self._send_steps(reports))

    def _send_steps(self, reports: list[StepReport]) -> None:
        for report in reports:
            self.run.log({"step": report.step, "train/loss": report.loss, "train/lr": report.lr})

    def log_epoch(self, report: EpochReport) -> None:
        row = {
            "epoch": report.epoch,
            "step": report.step,
            "train/epoch_loss": report.train.loss,
            "train/top1": report.train.top1,
            "val/loss": report.val.loss,
            "val/top1": report.val.top1,
            "val/top5": report.val.top5,
            "val/calibration_error": report.val.calibration_error,
            "time/epoch_seconds": report.seconds,
            "time/images_per_second": report.images_per_second,
            "system/peak_memory_gb": peak_memory() / 1e9,
        }
        self._calls.put(lambda: self.run.log(row))

    def log_result(self, result: Mapping[str, Any], evaluation: EvaluationFile) -> None:
        columns = ("top1", "top5", "loss", "calibration_error")
        summary = {"best/top1": result["best_top1"], **{f"final/{name}": result[name] for name in columns}}
        self._calls.put(lambda: self.run.summary.update(summary))
        self._calls.put(lambda: self.run.log(tables(result, evaluation)))
        if self.best is not None:
            self._calls.put(self._upload_best)

    def _upload_best(self) -> None:
        import wandb

        artifact = wandb.Artifact(self.name, type="model", description="checkpoint of the best epoch")
        artifact.add_file(str(self.best))
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, failed: bool) -> None:
        self._calls.put(lambda: self.run.finish(exit_code=int(failed)))
        self._calls.put(None)
        self._thread.join(2 * self.timeout)
        if self._thread.is_alive():
            self.say_failure("Weights & Biases does not respond: the run ends without it")


def peak_memory() -> int:
    """The largest number of bytes that this process has allocated: on the GPU if it uses one, otherwise in memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tables(result: Mapping[str, Any], evaluation: EvaluationFile) -> dict[str, Any]:
    """Tables of the last evaluation: accuracy per class, confusion matrix, most confident errors."""
    import wandb

    names = evaluation.classes.tolist()
    classes = [[name, result["class_accuracy"][name], result["class_samples"][name]] for name in names]
    largest = np.argsort(-evaluation.confusion, axis=None, kind="stable")[:MAX_ROWS]
    cells = [(*divmod(int(index), len(names)), int(evaluation.confusion.flat[index])) for index in largest]
    predicted = [[names[label], names[other], count] for label, other, count in sorted(cells) if count]
    errors = [
        [wandb.Image(image), names[label], names[other], float(confidence)]
        for image, label, other, confidence in zip(
            evaluation.images, evaluation.labels, evaluation.predicted, evaluation.confidence, strict=True
        )
    ]
    columns = ("Actual", "Predicted", "nPredictions")  # the names that the chart expects
    confusion = wandb.Table(columns=[*columns], data=predicted)
    fields = {column: column for column in columns}
    return {
        "val/classes": wandb.Table(columns=["class", "accuracy", "samples"], data=classes),
        "val/confusion": wandb.plot_table("wandb/confusion_matrix/v1", confusion, fields, {"title": "confusion"}),
        "val/confident_errors": wandb.Table(columns=["image", "class", "predicted as", "confidence"], data=errors),
    }


def open_wandb(config: Config, directory: RunDirectory, say: Callable[[str], None]) -> WandbTracker | None:
    """The tracker as configured; offline, with a message, if there is no API key or no server."""
    mode = config.tracking.wandb
    if mode == "disabled":
        return None
    # W&B's own error reports wait for the server for up to 30 s when the process ends.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Tables and checkpoints wait for their upload in the run directory: the home directory may be full or read-only.
    os.environ.setdefault("WANDB_DATA_DIR", str((directory.path / "wandb").absolute()))
    import wandb

    if mode == "auto":
        mode = "online" if has_wandb_key() else "offline"
    if mode == "online":
        try:
            return WandbTracker(config, directory, mode, say)
        except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues offline
            say(f"Weights & Biases cannot be used online ({' '.join(str(error).split())})")
            wandb.teardown()  # its service still holds the run id and would reject the offline run
    try:
        tracker = WandbTracker(config, directory, "offline", say)
    except Exception as error:  # noqa: BLE001  # as above; the run continues without Weights & Biases
        reason = " ".join(str(error).split())
        say(f"Weights & Biases cannot be used offline either ({reason}); --tracking.wandb disabled turns it off")
        return None
    say(f"Weights & Biases: logging offline. Upload with: wandb sync {Path(tracker.run.dir).parent}")
    return tracker


def has_wandb_key() -> bool:
    """Whether there is an API key: WANDB_API_KEY, or the one that `wandb login` stored."""
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        return bool(os.environ.get("WANDB_API_KEY") or read_netrc_auth(host=wandb.Settings().base_url))
    except ValueError:  # an invalid setting in the environment, which W&B reports when the run starts
        return False
