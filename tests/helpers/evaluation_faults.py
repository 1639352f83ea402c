"""Evaluations that are slow, metrics that are replaced, and a log of the statistics that an evaluation uses."""

import os
import time
from pathlib import Path

from injected_fault import InjectedFault


class EvaluationFaults(InjectedFault):
    def slow_evaluation(self) -> None:
        from regnet.metrics.evaluation import EvaluationAccumulator

        original = EvaluationAccumulator.update

        def update(*args):
            time.sleep(1)
            original(*args)

        EvaluationAccumulator.update = update

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
