"""Trains a RegNetX network: reads the configuration, joins the processes, builds the parts, fits.

python train_ddp.py --config configs/debug.yaml
torchrun --nproc_per_node=N train_ddp.py --config configs/baseline.yaml [--section.option value ...]
"""

import sys

from regnet.distributed.preemption import PreemptionNotice

NOTICE = PreemptionNotice()
if __name__ == "__main__":
    NOTICE.install()  # before torch is imported: that takes seconds, in which a signal may come

from data.errors import DataError, LoaderError
from data.loader import Place, open_loaders
from regnet.cli import exit_code_of
from regnet.config.parser import parse_config
from regnet.config.schema import Config
from regnet.data_adapter import loader_options, open_shards
from regnet.distributed.world import World, join_world
from regnet.exit_codes import DONE, exit_process, preempted_exit_code
from regnet.models.regnet import Model, count_parameters
from regnet.report import report_on
from regnet.runs.directory import run_path
from regnet.training.cuda_graphs import recorder
from regnet.training.run_manager import Record
from regnet.training.torch_setup import configure_torch
from regnet.training.trainer import Trainer


def main(argv: list[str]) -> int:
    """Runs one process of a training; returns its exit status."""

    def run() -> int:
        config = parse_config(argv)
        with join_world(config.train.device, config.distributed, NOTICE) as world:
            return train(config, world)

    return exit_code_of(run, usage_errors=DataError, failures=LoaderError)


def train(config: Config, world: World) -> int:
    """Builds the parts, continues where the run stood, trains."""
    configure_torch(config.seed, config.train, world.device)
    shards, manifest = open_shards(config, world)
    with Record(config, world, manifest) as record:
        if record.was_finished():
            return DONE
        place, options = Place(world.rank, world.size, world.device), loader_options(config)
        record_kernels = recorder(config.train, world)
        train_batches, val_batches = open_loaders(shards, manifest, options, place, record_kernels)
        model = Model(config.model.design(), len(manifest.classes))
        trainer = Trainer(config, world, model, train_batches, val_batches, record, NOTICE)
        record.begin(trainer.state)
        trained = f" ({count_parameters(model, trainable_only=True):,} trained)" if config.train.freeze_backbone else ""
        record.say(
            f"{config.name}: {count_parameters(model):,} parameters{trained}, {world.size} x {world.device.type}, "
            f"{train_batches.samples:,} images in {trainer.steps} steps an epoch"
            + (f" ({train_batches.dropped} images dropped in each)" if train_batches.dropped else "")
        )
        result = trainer.fit()
        if result is None:
            record.preempted(f"asked to leave by {NOTICE.reason or 'another rank'}")
            return preempted_exit_code()
        record.finished(result, trainer.state, trainer.why_done())
    if config.tracking.report and world.is_main:
        report_on(run_path(config))
    return DONE


if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))
