"""How good a trained network is, on every test image once, by one process or by several.

python -m regnet.evaluate --checkpoint runs/baseline/checkpoints/best.pt [--shards DIR] [--json FILE]
torchrun --nproc_per_node=N -m regnet.evaluate --checkpoint ...
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn

from data.errors import DataError, LoaderError
from data.loader import EvaluationLoader, Place, open_loaders
from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.checkpoint.load_model import TrainedModel, load_trained_model
from regnet.cli import exit_code_of
from regnet.data_adapter import check_classes, loader_options, open_shards
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World, join
from regnet.errors import UsageError
from regnet.exit_codes import DONE, exit_process
from regnet.metrics.evaluation import Evaluation, EvaluationAccumulator
from regnet.metrics.evaluation_file import most_confused
from regnet.tracking.console import in_columns
from regnet.training.amp import Precision

CONFUSED = 10  # pairs that are told


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: EvaluationLoader, precision: Precision, classes: int, world: World
) -> tuple[Evaluation, Evaluation]:
    """The network as it is, and with the mean of its logits for an image and for its mirror image."""
    model = model.to(device=world.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    plain, mirrored = (EvaluationAccumulator(classes, world.device) for _ in range(2))

    def logits(images: Tensor) -> Tensor:
        with precision.autocast():
            return model(images).float()

    for batch in batches:
        straight = logits(batch.images)
        plain.update(straight, batch.labels)
        mirrored.update((straight + logits(batch.images.flip(3))) / 2, batch.labels)
    return plain.result(world), mirrored.result(world)


def as_told(trained: TrainedModel, plain: Evaluation, mirrored: Evaluation) -> dict[str, Any]:
    """Everything, as JSON has it."""
    groups = superclass_of(trained.classes)
    accuracy = dict(zip(trained.classes, plain.class_accuracy(), strict=True))
    of_groups = (
        {} if groups is None else dict(zip(SUPERCLASSES, plain.group_accuracy(torch.tensor(groups)), strict=True))
    )
    return {
        "epochs": trained.epochs,
        "samples": plain.samples,
        "top1": plain.top1,
        "top5": plain.top5,
        "loss": plain.loss,
        "calibration_error": plain.calibration_error,
        "with_mirror_images": {"top1": mirrored.top1, "top5": mirrored.top5, "loss": mirrored.loss},
        "class_accuracy": accuracy,
        "superclass_accuracy": of_groups,
        "most_confused": [
            {"label": trained.classes[label], "taken_for": trained.classes[taken], "times": times}
            for label, taken, times in most_confused(plain.confusion.numpy(), CONFUSED)
        ],
        "confusion": plain.confusion.tolist(),
    }


def show(told: dict[str, Any], console: Console) -> None:
    flipped = told["with_mirror_images"]
    for line in (
        f"{told['samples']:,} test images, {told['epochs']} epochs",
        f"top-1 {told['top1']:.2%}  top-5 {told['top5']:.2%}  loss {told['loss']:.4f}  "
        f"calibration error {told['calibration_error']:.2%}",
        f"with mirror images: top-1 {flipped['top1']:.2%}  top-5 {flipped['top5']:.2%}  loss {flipped['loss']:.4f}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    for heading, accuracies in (("class", told["class_accuracy"]), ("superclass", told["superclass_accuracy"])):
        if accuracies:
            console.print(f"\nby {heading}, best first:", highlight=False)
            best_first = sorted(accuracies.items(), key=lambda entry: -entry[1])
            console.print(in_columns([f"{name} {value:.1%}" for name, value in best_first], console.width))
    if told["most_confused"]:
        console.print("\nmost often confused:", highlight=False)
        for pair in told["most_confused"]:
            words = f"{pair['times']:4d} x {pair['label']} taken for {pair['taken_for']}"
            console.print(words, highlight=False)


def run(args: argparse.Namespace) -> int:
    if args.json and not args.json.parent.is_dir():
        raise UsageError(f"--json {args.json}: no such directory")
    trained = load_trained_model(args.checkpoint)
    config = trained.config
    shards = str(args.shards) if args.shards else config.data.shards
    config = replace(config, data=replace(config.data, shards=shards, local_cache_dir=""))
    with join(args.device, config.distributed, PreemptionNotice()) as world:
        directory, manifest = open_shards(config, world)
        check_classes(trained, directory, manifest)
        place = Place(world.rank, world.size, world.device)
        _, batches = open_loaders(directory, manifest, loader_options(config), place)
        precision = Precision(config.train.precision, world.device)
        plain, mirrored = evaluate(trained.model, batches, precision, len(trained.classes), world)
        if world.is_main:
            told = as_told(trained, plain, mirrored)
            show(told, Console(markup=False, emoji=False))
            if args.json:
                args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return DONE


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m regnet.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--shards", type=Path, help="other than those that the run was trained on")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes everything, the confusion matrix too")
    return exit_code_of(lambda: run(parser.parse_args(argv)), usage_errors=DataError, failures=LoaderError)


def cli() -> NoReturn:
    """Runs the command and exits with its status."""
    exit_process(main(sys.argv[1:]))


if __name__ == "__main__":
    cli()
