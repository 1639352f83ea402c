"""The record of a run: what is written about it and read back. Rank zero writes; all ranks take part."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch

from regnet.checkpoint.async_writer import AsyncWriter
from regnet.checkpoint.contents import copy_to_cpu
from regnet.checkpoint.manager import CheckpointManager
from regnet.checkpoint.pretrained import load_pretrained, read_weights
from regnet.config.schema import Config, plain
from regnet.distributed.world import World
from regnet.metrics.evaluation import Evaluation
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.models.regnet import count_parameters, fingerprint
from regnet.runs.directory import RunDirectory, mark_failed, run_path
from regnet.runs.status import Status
from regnet.tracking.base import EpochReport, StepReport, Tracker
from regnet.tracking.console import ConsoleTracker, print_result
from regnet.tracking.metrics_log import MetricsLog
from regnet.tracking.wandb_tracker import open_wandb
from regnet.training.state import Progress, TrainingState


class Samples(Protocol):
    """What is trained on.

    Attributes:
        classes: their names, by label.
        identity: equal for the same images under the same labels.
        mean, std: of each channel, which the images were normalised with; a byte is 0 to 1.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> str: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


class Record(AbstractContextManager["Record"]):
    """Opened for one attempt of a run; leaves state.json saying how that ended.

    Raises:
        UsageError: on all ranks, if the run's directory cannot be used for this configuration.
    """

    def __init__(self, config: Config, world: World, samples: Samples) -> None:
        self.config, self.world, self.samples = config, world, samples
        self.trackers: list[Tracker] = []
        self.directory = world.on_main(lambda: RunDirectory(config, samples.identity))
        self.checkpoints: CheckpointManager | None = None
        if self.directory is not None:
            self.checkpoints = CheckpointManager(self.directory.checkpoints, config.checkpoint.keep_last)
        self._writer = AsyncWriter()
        self._outcome: tuple[Status, str] | None = None  # known when the run leaves by itself
        self._at = (0, 0) if self.directory is None else self.directory.completed  # epochs and steps done
        if world.heartbeat is not None:
            world.heartbeat.last_words = self._failed

    def was_finished(self) -> bool:
        """True, after telling the result, if an earlier attempt has done all there is to do."""
        done = self.world.broadcast_object(self.directory is not None and self.directory.finished)
        if done and self.directory is not None:
            print_result(self.directory.read_result())
            print(f"finished before; results: {self.directory.path}", flush=True)
        return done

    def begin(self, state: TrainingState) -> None:
        """Brings the state to where the newest whole checkpoint is, or to model.weights, and opens the trackers.

        Raises:
            UsageError: on all ranks, for a checkpoint or weights that cannot be used.
        """
        found = self.world.on_main(self._newest)
        saved = self.world.broadcast_object(None if found is None else found[1])
        begun = ""
        if saved is not None:
            self.world.together(lambda: state.load_state_dict(saved, self.world))
        elif self.config.model.weights:
            begun = self._begin_with_weights(state)
        self._at = (state.progress.epoch, state.progress.global_step)
        self.world.on_main(lambda: self._open(state.progress, found))
        if begun:
            self.say(begun)

    def _begin_with_weights(self, state: TrainingState) -> str:
        """Gives all ranks the file that rank zero reads; what it was, in a line."""
        model, classes = self.config.model, self.samples.classes
        read = self.world.on_main(lambda: read_weights(model, state.model.state_dict(), classes))
        weights = self.world.broadcast_object(read)
        assert weights is not None
        for network in (state.model, state.evaluated):
            load_pretrained(network, weights.tensors)
        return weights.description

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        assert self.directory is not None
        assert self.checkpoints is not None
        found = self.checkpoints.newest(lambda why: print(f"passed over: {why}", flush=True))
        if found is not None:
            self.directory.check_checkpoint(found[1])
        return found

    def _open(self, progress: Progress, found: tuple[Path, dict[str, Any]] | None) -> None:
        assert self.directory is not None
        assert self.checkpoints is not None
        self.directory.begin(progress.epoch, progress.global_step, f"{self.world.size} x {self.world.device.type}")
        self.metrics = MetricsLog(self.directory.writer, self.directory.metrics, progress.epoch, progress.global_step)
        self.trackers += [ConsoleTracker(self.config), self.metrics]
        if found is not None:
            path, saved = found
            self.say(f"continuing from {path}: {progress.epoch} epochs and {progress.step} steps are done")
            best = progress.best_step
            if best == progress.global_step and not self.checkpoints.best_is_at_step(best):
                # Its writer was killed before it got there.
                self.checkpoints.save(self.directory.writer, best, saved, is_best=True)
        wandb = open_wandb(self.config, self.directory, self.say)
        if wandb is not None:
            self.trackers.append(wandb)

    def say(self, message: str) -> None:
        for tracker in self.trackers:
            tracker.say(message)

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        for tracker in self.trackers:
            tracker.begin_epoch(epoch, steps, done)

    def steps(self, reports: list[StepReport]) -> None:
        for tracker in self.trackers:
            tracker.steps(reports)

    def epoch(self, report: EpochReport) -> None:
        for tracker in self.trackers:
            tracker.epoch(report)

    def save(self, state: TrainingState, is_best: bool) -> None:
        """Copies the state, and writes it as a checkpoint beside the training; all ranks call it together.

        Raises:
            OSError: on rank zero, if the checkpoint before this one could not be written, twice.
        """
        state.sync_buffers(self.world)
        saved = {
            **state.state_dict(self.world),
            "config": plain(asdict(self.config)),
            "data": self.samples.identity,
            "classes": list(self.samples.classes),
        }
        at = (state.progress.epoch, state.progress.global_step)
        self.world.on_main(lambda: self._start_writing(at, copy_to_cpu(saved), is_best))

    def _start_writing(self, at: tuple[int, int], saved: dict[str, Any], is_best: bool) -> None:
        self._writer.start(lambda: self._write(at, saved, is_best))

    def _write(self, at: tuple[int, int], saved: dict[str, Any], is_best: bool) -> None:
        assert self.directory is not None
        assert self.checkpoints is not None
        self.metrics.sync()  # a resume counts on the lines up to its checkpoint
        self.checkpoints.save(self.directory.writer, at[1], saved, is_best)
        self._at = at
        self.directory.write_state(Status.running, *at)

    def settle(self) -> None:
        """Returns when all checkpoints are on disk; all ranks call it together. Raises what `save` does."""
        self.world.on_main(self._writer.settle)

    def last_checkpoint(self) -> str:
        """What can be continued from, in words, the same on all ranks."""
        self.settle()
        saved = self.checkpoints.paths() if self.checkpoints is not None else []
        return self.world.broadcast_object(
            f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        )

    def preempted(self, reason: str) -> None:
        """The run leaves before its end, and can be continued."""
        self._outcome = Status.preempted, reason
        if self.directory is not None:
            self.say(f"{reason} after step {self._at[1]}; the same command continues")

    def finished(self, evaluation: Evaluation, state: TrainingState, reason: str) -> None:
        """The run is done; `evaluation` is of its last weights."""
        self._outcome = Status.finished, reason
        self._at = (state.progress.epoch, state.progress.global_step)
        if self.directory is None:
            return
        result, outcome = self._result(evaluation, state), self._as_outcome(evaluation)
        self.directory.write_result(result, outcome.pack())
        for tracker in self.trackers:
            tracker.final(result, outcome)
        self.say(f"{reason}; results: {self.directory.path}")

    def _result(self, evaluation: Evaluation, state: TrainingState) -> dict[str, Any]:
        classes = self.samples.classes
        return {
            "top1": evaluation.top1,
            "top5": evaluation.top5,
            "loss": evaluation.loss,
            "calibration_error": evaluation.calibration_error,
            "samples": evaluation.samples,
            "best_top1": state.progress.best_accuracy,
            "epochs": state.progress.epoch,
            "parameters": count_parameters(state.model),
            "weights_sha256": fingerprint(state.evaluated),
            "class_accuracy": dict(zip(classes, evaluation.class_accuracy(), strict=True)),
            "class_samples": dict(zip(classes, evaluation.class_samples(), strict=True)),
        }

    def _as_outcome(self, evaluation: Evaluation) -> EvaluationFile:
        mean, std = (torch.tensor(of_channels).view(3, 1, 1) for of_channels in (self.samples.mean, self.samples.std))
        seen = evaluation.mistaken
        assert seen is not None
        images = ((seen.images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        return EvaluationFile(
            classes=np.array(self.samples.classes),
            confusion=evaluation.confusion.numpy(),
            confidence=seen.confidence.numpy(),
            labels=seen.labels.numpy(),
            predicted=seen.predicted.numpy(),
            images=images.numpy(),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # First of all, for other ranks wait to hear it, and what follows may wait for a disk.
        why = str(self.world.explain(error)) if isinstance(error, Exception) else "ended by force" if error else ""
        try:
            if self.directory is not None:
                self._writer.settle()
        except OSError as unsaved:
            why = f"{why}; the last checkpoint was not saved: {unsaved}" if why else str(unsaved)
        try:
            if why:
                self._failed(why)
            elif self.directory is not None and self._outcome is not None:
                self.directory.write_state(self._outcome[0], *self._at, self._outcome[1])
        finally:
            for tracker in self.trackers:
                tracker.close(failed=error is not None)
            if self.directory is not None:
                self.directory.close()

    def _failed(self, why: str) -> None:
        """Every rank tries to write this down; rank zero may be the one that is gone."""
        if self.directory is not None:
            self.directory.write_state(Status.failed, *self._at, why)
        else:
            mark_failed(run_path(self.config), why)
