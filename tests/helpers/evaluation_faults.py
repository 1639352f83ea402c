"""Evaluations and runs that do not end, metrics that are replaced, and a log of the statistics that are evaluated."""

import os
import time
from pathlib import Path

from injected_fault import InjectedFault
from limits import LIMIT


class EvaluationFaults(InjectedFault):
    def evaluation_until_signal(self) -> None:
        """The first batch of each evaluation takes until this rank gets a signal."""
        from regnet.metrics.evaluation import EvaluationAccumulator
        from regnet.training.trainer import Trainer

        evaluate, update = Trainer.evaluate, EvaluationAccumulator.update
        notices = []

        def noted(trainer):
            notices.append(trainer.notice)
            return evaluate(trainer)

        def delayed(*args):
            while notices[-1].reason is None:
                time.sleep(0.02)
            update(*args)

        Trainer.evaluate, EvaluationAccumulator.update = noted, delayed

    def saves_no_evaluated_epoch(self) -> None:
        """The checkpoint after the first evaluation is never written."""
        from regnet.training.checkpointing import Checkpointer

        original = Checkpointer._write

        def write(checkpointer, copied, *rest):
            time.sleep(LIMIT if copied["progress"]["epoch"] else 0)
            original(checkpointer, copied, *rest)

        Checkpointer._write = write

    def never_finishes(self) -> None:
        """The run waits after its last epoch, so that a test that kills it is never late."""
        from regnet.training.run import Run

        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":  # a process that torchrun restarts finishes
            Run.record_finish = lambda *_: time.sleep(LIMIT)

    def inflated_metrics(self) -> None:
        """On this rank, the metrics of each training epoch and evaluation are better than the previous ones."""
        from dataclasses import replace

        from regnet.metrics.evaluation import EvaluationAccumulator
        from regnet.metrics.training import TrainingAccumulator

        calls = []

        def improving(original):
            def result(*args):
                calls.append(1)
                return replace(original(*args), top1=len(calls) / 1000, loss=1 / len(calls))

            return result

        TrainingAccumulator.result, EvaluationAccumulator.result = (
            improving(TrainingAccumulator.result),
            improving(EvaluationAccumulator.result),
        )

    def declining_metrics(self) -> None:
        """Each evaluation of the run is worse than the previous one, across restarts too."""
        from dataclasses import replace

        from regnet.training.trainer import Trainer

        original = Trainer.evaluate

        def evaluate(trainer):
            result = original(trainer)
            return result and replace(result, top1=1 / (1 + trainer.state.progress.global_step))

        Trainer.evaluate = evaluate

    def record_buffers(self) -> None:
        """Logs digests of the BatchNorm statistics: this rank's own before each sync, those evaluated, those saved."""
        import hashlib

        from regnet.training.state import TrainingState

        path = Path(os.environ["BUFFER_LOG"]) / f"rank-{os.environ.get('RANK', '0')}"

        def log(kind, model) -> None:
            digest = hashlib.sha256(b"".join(b.numpy().tobytes() for b in model.buffers())).hexdigest()
            with open(path, "a") as file:
                file.write(f"{kind} {digest}\n")

        sync, state_dict, evaluated = TrainingState.sync_buffers, TrainingState.state_dict, TrainingState.evaluated

        def sync_buffers(state, world):
            log("own", state.model)
            sync(state, world)

        def saved(state, world):
            log("saved", state.model)
            return state_dict(state, world)

        def used(state):
            model = evaluated.fget(state)
            log("evaluated", model)
            return model

        TrainingState.sync_buffers, TrainingState.state_dict = sync_buffers, saved
        TrainingState.evaluated = property(used)
