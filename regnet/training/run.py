"""One attempt of a run: opens it, resumes it, reports, saves, and records how it ended. Rank zero writes.

Resuming: Run.resume_or_start -> Checkpointer.newest -> CheckpointManager.newest -> TrainingState.load_state_dict. Which
configurations may resume a run is decided in regnet.runs.compatibility.
"""

from contextlib import AbstractContextManager
from types import TracebackType

from regnet.checkpoint.pretrained import load_pretrained, read_weights
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.errors import Diverged
from regnet.metrics.evaluation import Evaluation
from regnet.runs.directory import RunDirectory, mark_failed, run_path
from regnet.runs.status import Ending, Status
from regnet.tracking.base import EpochReport, StepReport
from regnet.tracking.console import print_result
from regnet.tracking.registry import Trackers, open_trackers
from regnet.training.checkpointing import Checkpointer, LoadedCheckpoint
from regnet.training.dataset import Dataset
from regnet.training.environment import describe_changes, describe_environment, summarise
from regnet.training.result import evaluation_file, result_of
from regnet.training.state import TrainingState


class Run(AbstractContextManager["Run"]):
    """One attempt as a context: on exit state.json says how it ended. All ranks call every method.

    Raises:
        UsageError: on all ranks, if the run directory cannot be used with this configuration.

    Attributes:
        directory, checkpointer: None except on rank zero.
        trackers: empty except on rank zero, and empty there before `resume_or_start`.
    """

    def __init__(self, config: Config, world: World, dataset: Dataset) -> None:
        self.config, self.world, self.dataset = config, world, dataset
        self.trackers = Trackers([])
        self.directory = world.on_main(lambda: RunDirectory(config, dataset.identity))
        self.checkpointer: Checkpointer | None = None
        if self.directory is not None:
            pin_memory = world.device.type == "cuda"
            self.checkpointer = Checkpointer(self.directory, config.checkpoint.keep_last, pin_memory)
        self._ending: Ending | None = None  # set when the run ends without an error
        if world.heartbeat is not None:
            world.heartbeat.before_exit = self._failed

    def already_finished(self) -> bool:
        """Whether an earlier attempt has completed the run; prints its result."""
        finished = self.world.broadcast_object(self.directory is not None and bool(self.directory.finished))
        if finished and self.directory is not None:
            self._open_checkpointer().restore_best_of_finished_run()
            print_result(self.directory.read_result(), self.config.tracking.console_classes)
            print(f"{self.directory.finished}. Results: {self.directory.path}", flush=True)
        return finished

    def resume_or_start(self, state: TrainingState) -> None:
        """Resumes from the newest valid checkpoint, or loads model.weights; opens the trackers.

        Raises:
            UsageError: on all ranks, for a checkpoint or weights that cannot be used.
        """
        found = self.world.on_main(lambda: self._open_checkpointer().newest())
        contents = self.world.broadcast_object(None if found is None else found.contents)
        environment = state.metadata["environment"] = self.world.gather(describe_environment(self.world.device))
        note, changes = "", ""
        if contents is not None:
            self.world.run_on_all(lambda: state.load_state_dict(contents, self.world))
            changes = describe_changes(contents.get("environment"), environment)
            if changes:
                note = f"Not bit-identical to an uninterrupted run from here on: {changes}"
        elif self.config.model.weights:
            note = self._load_pretrained(state)
        self.world.on_main(lambda: self._open(state, found, changes))
        if note:
            self.log_message(note)

    def _load_pretrained(self, state: TrainingState) -> str:
        """Loads model.weights, which rank zero reads, on all ranks; describes them in a line."""
        model, classes = self.config.model, self.dataset.classes
        read = self.world.on_main(lambda: read_weights(model, state.model.state_dict(), classes))
        weights = self.world.broadcast_object(read)
        assert weights is not None
        for network in (state.model, state.evaluated):
            load_pretrained(network, weights.tensors)
        return weights.description

    def _open(self, state: TrainingState, found: LoadedCheckpoint | None, changes: str) -> None:
        assert self.directory is not None
        progress, checkpointer = state.progress, self._open_checkpointer()
        epochs, steps = checkpointer.saved = (progress.epoch, progress.global_step)
        processes = f"{self.world.size} x {self.world.device.type}"
        environment = summarise(state.metadata["environment"])
        self.directory.begin(epochs, steps, f"{processes}; {changes}" if changes else processes, environment)
        if found is not None:
            checkpointer.restore_best(found.contents["progress"])
        self.trackers = open_trackers(self.config, self.directory, epochs, steps)
        if found is not None:
            self.log_message(f"Resuming from {found.path} (epoch {epochs}, step {steps})")

    def _open_checkpointer(self) -> Checkpointer:
        assert self.checkpointer is not None, "rank zero only"
        return self.checkpointer

    def log_message(self, message: str) -> None:
        self.trackers.log_message(message)

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        self.trackers.begin_epoch(epoch, steps, done)

    def log_steps(self, reports: list[StepReport]) -> None:
        self.trackers.log_steps(reports)

    def log_epoch(self, report: EpochReport) -> None:
        self.trackers.log_epoch(report)

    def save(self, state: TrainingState, is_best: bool) -> None:
        """Copies the state, and writes it as a checkpoint in the background.

        Raises:
            NonFinite: on all ranks at once, for a state that must not be saved.
            OSError: on rank zero, if writing the previous checkpoint failed twice.
        """
        contents = state.state_dict(self.world)
        self.world.on_main(lambda: self._open_checkpointer().save(contents, is_best, self.trackers))

    def wait(self) -> None:
        """Returns when all checkpoints are on disk. Raises the same errors as `save`."""
        self.world.on_main(lambda: self._open_checkpointer().wait())

    def last_checkpoint(self) -> str:
        """A sentence about the newest checkpoint, the same on all ranks."""
        self.wait()
        paths = [] if self.checkpointer is None else self.checkpointer.paths()
        sentence = f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"
        return self.world.broadcast_object(sentence)

    def record_preemption(self, reason: str) -> None:
        """The run stops before its end, and can be resumed."""
        self._ending = Ending(Status.preempted, reason)
        if self.checkpointer is not None:
            saved = f"; checkpoint saved at step {self.checkpointer.saved[1]}" if self.checkpointer.paths() else ""
            why = reason[0].upper() + reason[1:]
            command = "the same command" + (" without --overwrite" if self.config.overwrite else "")
            self.log_message(f"{why}{saved or ' before the first checkpoint'}. Re-run {command} to resume.")

    def record_finish(self, evaluation: Evaluation, state: TrainingState) -> None:
        """The run is complete; `evaluation` is that of its last weights."""
        reason = why_finished(self.config, state)
        stopping = state.stopping
        self._ending = Ending(Status.finished, reason, stale_epochs=stopping.stale if stopping.should_stop else 0)
        if self.directory is None:
            return
        self._open_checkpointer().saved = (state.progress.epoch, state.progress.global_step)
        result, details = result_of(evaluation, state, self.dataset), evaluation_file(evaluation, self.dataset)
        self.directory.write_result(result, details.to_bytes())
        self.trackers.log_result(result, details)
        self.log_message(f"{reason}. Results: {self.directory.path}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # First of all: other ranks wait to hear the reason, and what follows may wait for a disk.
        why = str(self.world.report_failure(error)) if isinstance(error, Exception) else "killed" if error else ""
        try:
            if self.checkpointer is not None:
                self.checkpointer.wait()
        except OSError as unsaved:
            why = f"{why}; the last checkpoint was not saved: {unsaved}" if why else str(unsaved)
        try:
            if why:
                self._failed(why, diverged=isinstance(error, Diverged))
            elif self.directory is not None and self._ending is not None:
                self.directory.write_state(*self._open_checkpointer().saved, self._ending)
        finally:
            self.trackers.close(Status.failed if why or self._ending is None else self._ending.status)
            if self.directory is not None:
                self.directory.close()

    def _failed(self, why: str, diverged: bool = False) -> None:
        """Records the failure. Every rank tries: rank zero may be the one that died."""
        if self.directory is not None:
            ending = Ending(Status.failed, why, diverged=diverged)
            self.directory.write_state(*self._open_checkpointer().saved, ending)
        else:
            mark_failed(run_path(self.config), why)


def why_finished(config: Config, state: TrainingState) -> str:
    """Why a run ended without being preempted or failing."""
    epochs, stopping = state.progress.epoch, state.stopping
    if not stopping.should_stop:
        return f"Finished after {_epochs(epochs)}"
    monitor = config.early_stopping.monitor
    return f"Stopped early after {_epochs(epochs)}: {monitor} has not improved for {_epochs(stopping.stale)}"


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
