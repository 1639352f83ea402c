"""This trainer itself: train_ddp.py with a configuration, and everything that it always does.

It verifies shards, agrees on decisions, writes checkpoints and its record; the peers keep nothing. Rates, losses and
accuracies are those of its metrics.jsonl. Only a look at the clock after the first step is added to it.
"""

import json
import math
import os
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

import train_ddp
from benchmarks.peers.protocol import Epoch, RankReport, Settings, peak_gpu_bytes, run
from benchmarks.timing import synchronise
from regnet.exit_codes import DONE, exit_process
from regnet.training.batches import Batch
from regnet.training.trainer import Trainer

NAME = "trained"  # of its run


class Watched(Trainer):
    """The trainer, which looks at the clock after its first step."""

    first_step = math.nan

    def step(self, batch: Batch, rate: float) -> Tensor:
        loss = super().step(batch, rate)
        if math.isnan(Watched.first_step):
            synchronise(self.world.device)
            Watched.first_step = time.monotonic()
        return loss


def recorded(metrics: Path, batch_size: int) -> list[Epoch]:
    """The run's epochs, over all ranks; every step was of a whole batch."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = Counter(row["epoch"] for row in rows if row["kind"] == "step")
    epochs = []
    for row in rows:
        if row["kind"] == "epoch":
            taken = steps[row["epoch"]]
            seconds = taken * batch_size / row["images_per_second"]
            epochs.append(Epoch(taken, taken * batch_size, seconds, row["train_loss"], row["val_top1"]))
    return epochs


def main(settings: Settings) -> None:
    train_ddp.NOTICE.install()
    train_ddp.Trainer = Watched  # type: ignore[misc]
    runs = Path(settings.reports)
    flags = ["--config", settings.config, "--runs_dir", str(runs), "--name", NAME]
    status = train_ddp.main([*flags, "--train.epochs", str(settings.epochs)])
    if status == DONE:
        finished = time.monotonic() - settings.launched
        of_all_ranks = recorded(runs / NAME / "metrics.jsonl", settings.batch_size) if os.environ["RANK"] == "0" else []
        gpu_bytes = peak_gpu_bytes(torch.device(settings.device))
        RankReport(Watched.first_step - settings.launched, finished, of_all_ranks, gpu_bytes).write(settings)
    exit_process(status)


if __name__ == "__main__":
    run(main)
