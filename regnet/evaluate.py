"""Evaluate a trained network on the validation split, in one process or under torchrun.

examples:
  python -m regnet.evaluate --checkpoint runs/baseline/checkpoints/best.pt
  python -m regnet.evaluate --checkpoint best.pt --shards shards/cifar100 --json evaluation.json
  torchrun --nproc_per_node=4 -m regnet.evaluate --checkpoint runs/baseline/checkpoints/best.pt
"""

from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn

from commandline.arguments import ArgumentParser
from commandline.command import run_command
from commandline.exit_codes import DONE, exit_process
from commandline.paths import check_output_file, path_option
from data.loader import EvaluationLoader, RankInfo
from data.open_loaders import open_loaders
from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.checkpoint.load_model import TrainedModel, load_trained_model
from regnet.data_adapter import (
    adapt_to_process,
    as_in_training,
    loader_options,
    open_shards,
    recommend_shards_option,
)
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World, join_world
from regnet.errors import UsageError
from regnet.metrics.evaluation import Evaluation, EvaluationAccumulator
from regnet.metrics.evaluation_file import most_confused
from regnet.runs.atomic_write import replace_file
from regnet.runs.json_format import format_json
from regnet.tracking.console import in_columns, percent
from regnet.training.amp import Precision

CONFUSED_PAIRS = 10  # reported
DEVICES = ("auto", "cpu", "cuda")


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: EvaluationLoader, precision: Precision, classes: int, world: World
) -> tuple[Evaluation, Evaluation]:
    """Evaluates the network without and with flip TTA, the mean of the logits of an image and its mirror image."""
    model = model.to(device=world.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    without_tta, flip_tta = (EvaluationAccumulator(classes, world.device) for _ in range(2))

    def logits(images: Tensor) -> Tensor:
        with precision.autocast():
            return model(images).float()

    for batch in batches:
        unflipped = logits(batch.images)
        without_tta.update(unflipped, batch.labels)
        flip_tta.update((unflipped + logits(batch.images.flip(3))) / 2, batch.labels)
    return without_tta.result(world), flip_tta.result(world)


def to_dict(trained: TrainedModel, without_tta: Evaluation, flip_tta: Evaluation) -> dict[str, Any]:
    """The content of the file that --json writes."""
    superclasses = superclass_of(trained.classes)
    superclass_accuracy = {}
    if superclasses is not None:
        accuracies = without_tta.group_accuracy(torch.tensor(superclasses))
        superclass_accuracy = dict(zip(SUPERCLASSES, accuracies, strict=True))
    return {
        "epochs": trained.epochs,
        "samples": without_tta.samples,
        "top1": without_tta.top1,
        "top5": without_tta.top5,
        "loss": without_tta.loss,
        "calibration_error": without_tta.calibration_error,
        "flip_tta": {"top1": flip_tta.top1, "top5": flip_tta.top5, "loss": flip_tta.loss},
        "class_accuracy": dict(zip(trained.classes, without_tta.class_accuracy(), strict=True)),
        "superclass_accuracy": superclass_accuracy,
        "most_confused": [
            {"label": trained.classes[label], "predicted": trained.classes[predicted], "count": count}
            for label, predicted, count in most_confused(without_tta.confusion.numpy(), CONFUSED_PAIRS)
        ],
        "confusion": without_tta.confusion.tolist(),
    }


def print_evaluation(found: dict[str, Any], console: Console) -> None:
    """Prints what `to_dict` returned."""
    flipped = found["flip_tta"]
    for line in (
        f"{found['samples']:,} validation images, weights after {found['epochs']} epochs",
        f"top-1 {found['top1']:.2%}  top-5 {found['top5']:.2%}  loss {found['loss']:.4f}  "
        f"calibration error (ECE) {found['calibration_error']:.2%}",
        f"with flip TTA: top-1 {flipped['top1']:.2%}  top-5 {flipped['top5']:.2%}  loss {flipped['loss']:.4f}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    for heading, accuracies in (("class", found["class_accuracy"]), ("superclass", found["superclass_accuracy"])):
        if accuracies:
            console.print(f"\naccuracy per {heading}, best first:", highlight=False)
            best_first = sorted(accuracies.items(), key=lambda entry: 1.0 if entry[1] is None else -entry[1])
            console.print(in_columns([f"{name} {percent(value, 1)}" for name, value in best_first], console.width))
    if found["most_confused"]:
        console.print("\nmost frequent confusions:", highlight=False)
        for pair in found["most_confused"]:
            line = f"{pair['count']:4d} x {pair['label']} predicted as {pair['predicted']}"
            console.print(line, highlight=False)


def evaluate_checkpoint(
    checkpoint: str | Path, shards: str | Path | None = None, device: str = "auto"
) -> dict[str, Any] | None:
    """Evaluates the network of a checkpoint on a validation split; under torchrun, all ranks call it together.

    Args:
        shards: the dataset; None for the one that the run was trained on.
        device: auto, cpu or cuda.

    Returns:
        The evaluation, see `to_dict`; None on all ranks but rank zero.

    Raises:
        UsageError, DataError: the checkpoint or the shards cannot be used.
    """
    if device not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    trained = load_trained_model(checkpoint)
    config = trained.config
    data = replace(config.data, shards=str(shards or config.data.shards), local_cache_dir="", cache="none")
    config, _ = adapt_to_process(replace(config, data=data))
    with join_world(device, config.distributed, PreemptionNotice(), "--device") as world:
        with recommend_shards_option(shards):
            directory, manifest = open_shards(config, world)
        manifest = as_in_training(trained, directory, manifest)
        rank = RankInfo(world.rank, world.size, world.device)
        _, batches = open_loaders(directory, manifest, loader_options(config), rank)
        precision = Precision(config.train.precision, world.device)
        without_tta, flip_tta = evaluate(trained.model, batches, precision, len(trained.classes), world)
        return to_dict(trained, without_tta, flip_tta) if world.is_main else None


def run(args: argparse.Namespace) -> int:
    if args.json:
        check_output_file("--json", args.json)
    found = evaluate_checkpoint(args.checkpoint, args.shards, args.device)
    if found is not None:
        if args.json:
            replace_file(args.json, (format_json(found) + "\n").encode())
        print_evaluation(found, Console(markup=False, emoji=False))
    return DONE


def parser() -> argparse.ArgumentParser:
    """The command line of python -m regnet.evaluate."""
    options = ArgumentParser(
        prog="python -m regnet.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--checkpoint", type=path_option, required=True, metavar="FILE", help="checkpoint to evaluate")
    options.add_argument(
        "--shards",
        type=path_option,
        metavar="DIR",
        help="shards to evaluate on (default: those that the run was trained on)",
    )
    options.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto uses a GPU if there is one (default: %(default)s)",
    )
    options.add_argument(
        "--json",
        type=path_option,
        metavar="FILE",
        help="also write all results, including the confusion matrix, to this file",
    )
    return options


def main(argv: list[str]) -> int:
    return run_command(lambda arguments: run(parser().parse_args(arguments)), argv)


def cli() -> NoReturn:
    """Runs the command and exits with its status."""
    exit_process(main(sys.argv[1:]))


if __name__ == "__main__":
    cli()
