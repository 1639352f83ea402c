"""The trainer itself, put together as train_ddp.py does, for benchmarks that take its steps one by one.

But that batches are prepared kernel by kernel, also where the rest is recorded: parts of what is recorded take no time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.loader import Place, TrainingLoader, open_loaders
from data.manifest import read_manifest
from regnet.config.schema import Config
from regnet.data_adapter import loader_options
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World
from regnet.models.regnet import Model
from regnet.training.run_manager import Record
from regnet.training.torch_setup import configure_torch
from regnet.training.trainer import Trainer


@contextmanager
def built(config: Config, world: World) -> Iterator[tuple[Trainer, TrainingLoader]]:
    """A trainer of the configuration's network, and its training batches, of shards that have been verified.

    Raises:
        UsageError, DataError: the run's directory, or the shards, cannot be used.
    """
    shards = Path(config.data.shards)
    manifest = read_manifest(shards)
    configure_torch(config.seed, config.train, world.device)
    place = Place(world.rank, world.size, world.device)
    train, val = open_loaders(shards, manifest, loader_options(config), place)
    with Record(config, world, manifest) as record:
        model = Model(config.model.design(), len(manifest.classes))
        yield Trainer(config, world, model, train, val, record, PreemptionNotice()), train
