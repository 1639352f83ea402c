"""The trainer as train_ddp.py builds it, for benchmarks that run its steps one by one.

Unlike there, augmentation is never captured as a CUDA graph: its parts could not be timed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.loader import RankInfo, TrainingLoader
from data.manifest import read_manifest
from data.open_loaders import open_loaders
from regnet.config.schema import Config
from regnet.data_adapter import loader_options
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World
from regnet.training.builder import build_train_step
from regnet.training.run import Run
from regnet.training.step_capture import capture_step
from regnet.training.torch_setup import configure_torch
from regnet.training.trainer import Trainer


@contextmanager
def build_trainer(config: Config, world: World) -> Iterator[tuple[Trainer, TrainingLoader]]:
    """The trainer for a configuration, and its training batches. The shards must have been verified.

    Raises:
        UsageError, DataError: the run directory or the shards cannot be used.
    """
    shards = Path(config.data.shards)
    manifest = read_manifest(shards)
    configure_torch(config.seed, config.train, world.device)
    rank = RankInfo(world.rank, world.size, world.device)
    train, val = open_loaders(shards, manifest, loader_options(config), rank)
    with Run(config, world, manifest) as run:
        train_step = build_train_step(config, world, manifest)
        capture_step(train_step, train)
        train.capture = None  # the parts of a captured function could not be timed
        yield Trainer(config, world, train_step, train, val, run, PreemptionNotice()), train
