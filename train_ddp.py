"""Trains a RegNet: reads the configuration, joins the process group, builds the parts and runs the training loop.

python train_ddp.py --config configs/debug.yaml
torchrun --nproc_per_node=N train_ddp.py --config configs/baseline.yaml [--section.option value ...]
"""

import sys
from collections.abc import Sequence

from commandline.startup import pause_garbage_collection, require_importable_libraries, resume_garbage_collection
from regnet.distributed.cuda_context import create_context_in_background
from regnet.distributed.preemption import PreemptionNotice

NOTICE = PreemptionNotice()
if __name__ == "__main__":
    require_importable_libraries()
    NOTICE.install()  # before torch is imported, which takes seconds: a signal may arrive meanwhile
    create_context_in_background(sys.argv[1:])
    pause_garbage_collection()

from commandline.command import run_command
from commandline.exit_codes import DONE, exit_process, preempted_exit_code
from data.loader import RankInfo, TrainingLoader
from data.open_loaders import open_loaders
from regnet.config.parser import parse_config_with_notes
from regnet.config.schema import Config
from regnet.data_adapter import adapt_to_manifest, adapt_to_process, loader_options, open_shards
from regnet.distributed.world import World, join_world
from regnet.models.regnet import count_parameters
from regnet.report import lacks_report, write_run_report
from regnet.runs.directory import run_path
from regnet.tracking.wandb_sweep import name_sweep_run
from regnet.training.amp import precision_notes
from regnet.training.builder import build_train_step
from regnet.training.run import Run
from regnet.training.step_capture import capture_step
from regnet.training.torch_setup import configure_torch
from regnet.training.trainer import Trainer


def main(argv: list[str]) -> int:
    """Runs one process of a training; returns its exit code."""

    def run(arguments: list[str]) -> int:
        config, notes = parse_config_with_notes(arguments)
        config, sweep_notes = name_sweep_run(config)
        with join_world(config.train.device, config.distributed, NOTICE) as world:
            return train(config, [*notes, *sweep_notes], world)

    return run_command(run, argv)


def train(config: Config, notes: Sequence[str], world: World) -> int:
    """Opens the data and the run, builds the parts, resumes and trains.

    Args:
        notes: one line about each option that was adapted, for the console.
    """
    configure_torch(config.seed, config.train, world.device)
    shards, manifest = open_shards(config, world)
    config, data_notes = adapt_to_manifest(config, manifest)
    in_this_process, process_notes = adapt_to_process(config)
    with Run(config, world, manifest) as run:
        if run.already_finished():
            if config.tracking.report and world.is_main and lacks_report(run_path(config)):
                write_run_report(run_path(config))
            return DONE
        rank = RankInfo(world.rank, world.size, world.device)
        train_batches, val_batches = open_loaders(shards, manifest, loader_options(in_this_process), rank)
        train_step = build_train_step(config, world, manifest)
        capture_step(train_step, train_batches)
        run.resume_or_start(train_step.state)
        trainer = Trainer(config, world, train_step, train_batches, val_batches, run, NOTICE)
        precision = precision_notes(config.train.precision, world.device)
        for line in (*notes, *data_notes, *process_notes, *precision, start_message(trainer, train_batches)):
            run.log_message(line)
        result = trainer.fit()
        if result is None:
            reasons = world.gather(NOTICE.reason)  # the signal may not have reached rank zero, which records it
            run.record_preemption(f"interrupted by {next(filter(None, reasons))}")
            return preempted_exit_code()
        run.record_finish(result, train_step.state)
    if config.tracking.report and world.is_main:
        write_run_report(run_path(config))
    return DONE


def start_message(trainer: Trainer, batches: TrainingLoader) -> str:
    """The line printed at the start: network, processes and data."""
    config, world, model = trainer.config, trainer.world, trainer.state.model
    parameters = f"{count_parameters(model):,} parameters"
    if config.train.freeze_backbone:
        parameters += f" ({count_parameters(model, trainable_only=True):,} trained)"
    processes = f"{world.size} process{'es' if world.size > 1 else ''} ({world.device.type})"
    data = f"{batches.samples:,} training images, {trainer.steps_per_epoch} steps/epoch"
    if batches.dropped:
        data += f" ({batches.dropped} images dropped per epoch)"
    return f"{config.name}: {parameters}, {processes}, {data}"


if __name__ == "__main__":
    resume_garbage_collection()
    exit_process(main(sys.argv[1:]))
