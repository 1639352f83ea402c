"""Classify images with a trained model.

examples:
  python -m regnet.predict --checkpoint runs/baseline/checkpoints/best.pt cat.jpg photos/
  python -m regnet.predict --onnx baseline.onnx --top 3 --json photos/
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from torch import Tensor

from commandline.command import run_command
from commandline.exit_codes import DONE
from commandline.paths import path_option
from data.augment.resize_normalize import ResizeNormalize
from data.errors import DataError
from data.image_encoding import DECODE_ERRORS
from data.inference_transform import InferenceTransform
from regnet.checkpoint.load_model import load_trained_model
from regnet.data_adapter import manifest_and_transform
from regnet.errors import UsageError
from regnet.runs.json_format import format_json

FORMATS = (".png", ".jpg", ".jpeg")
BATCH_SIZE = 64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Classifier:
    """A network, loaded from a checkpoint or from an ONNX model.

    Attributes:
        classes: class names, by label.
        transform: turns an RGB image into what evaluation reads from the shards, uint8 (side, side, 3).
        logits: uint8 (N, side, side, 3) -> float32 (N, classes).
    """

    classes: tuple[str, ...]
    transform: InferenceTransform
    logits: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image and their probabilities, in decreasing order."""

    image: str
    classes: list[str]
    probabilities: list[float]


def from_checkpoint(path: Path, shards: Path | None) -> Classifier:
    """The network of a checkpoint; the manifest of the shards describes how to prepare images."""
    trained = load_trained_model(path)
    manifest, transform = manifest_and_transform(trained, shards)
    normalize = evaluation_transform(manifest.mean, manifest.std, trained.config.data.resolution)

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return trained.model(normalize(images))

    return Classifier(trained.classes, transform, logits)


def from_onnx(path: Path) -> Classifier:
    """The network of an ONNX model with normalisation. Raises UsageError if the file is anything else."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime does not export the names of its exceptions
        raise UsageError(f"{path}: not a readable ONNX model ({str(error).splitlines()[0][:200]})") from error
    properties = session.get_modelmeta().custom_metadata_map
    if "inference_transform" not in properties or "classes" not in properties:
        raise UsageError(f"{path}: does not include its normalisation; use python -m regnet.export --onnx --normalize")
    scale = evaluation_transform((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), int(properties["resolution"]))

    def logits(images: Tensor) -> Tensor:
        (outputs,) = session.run(["logits"], {"images": scale(images).contiguous().numpy()})
        return torch.from_numpy(outputs)

    transform = InferenceTransform(**json.loads(properties["inference_transform"]))
    return Classifier(tuple(json.loads(properties["classes"])), transform, logits)


def evaluation_transform(mean: Sequence[float], std: Sequence[float], resolution: int) -> Callable[[Tensor], Tensor]:
    """uint8 (N, side, side, 3) -> float32 (N, 3, resolution, resolution), as in evaluation."""
    return ResizeNormalize(mean, std, resolution, CPU)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The named files, and all images in the named folders. Raises UsageError if a path does not exist."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS)
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or directory")
    if not found:
        raise UsageError(f"no images ({', '.join(FORMATS)}) in {', '.join(map(str, paths))}")
    return found


def read_image(path: Path, transform: InferenceTransform) -> np.ndarray:
    """uint8 (side, side, 3). Raises DataError if the file cannot be decoded."""
    try:
        with Image.open(path) as image:
            image.load()
            return transform(image.convert("RGB"))
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error


def predict(classifier: Classifier, paths: Sequence[Path], top: int) -> Iterator[Prediction]:
    """The `top` most probable classes of each image, in order. Raises DataError if an image cannot be decoded."""
    for start in range(0, len(paths), BATCH_SIZE):
        batch = paths[start : start + BATCH_SIZE]
        images = torch.from_numpy(np.stack([read_image(path, classifier.transform) for path in batch]))
        best = classifier.logits(images).softmax(1).topk(min(top, len(classifier.classes)))
        for path, labels, probabilities in zip(batch, best.indices.tolist(), best.values.tolist(), strict=True):
            yield Prediction(str(path), [classifier.classes[label] for label in labels], probabilities)


def parser() -> argparse.ArgumentParser:
    """The command line of python -m regnet.predict."""
    options = argparse.ArgumentParser(
        prog="python -m regnet.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = options.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint", type=path_option, metavar="FILE", help="checkpoint of a run, or weights-only checkpoint"
    )
    model.add_argument(
        "--onnx", type=path_option, metavar="FILE", help="ONNX model from python -m regnet.export --onnx --normalize"
    )
    options.add_argument(
        "--shards",
        type=path_option,
        metavar="DIR",
        help="shards whose manifest describes the images of a checkpoint (default: those that it was trained on)",
    )
    options.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of classes per image (default: %(default)s)"
    )
    options.add_argument("--json", action="store_true", help="print JSON (default: text)")
    options.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="PNG or JPEG file, or folder to search for them"
    )
    return options


def run(args: argparse.Namespace) -> int:
    if args.top < 1:
        raise UsageError(f"--top must be at least 1, got {args.top}")
    console = Console(highlight=False, markup=False, emoji=False)
    paths = find_images(args.images)
    classifier = from_checkpoint(args.checkpoint, args.shards) if args.checkpoint else from_onnx(args.onnx)
    predictions = list(predict(classifier, paths, args.top))
    if args.json:
        print(format_json([asdict(prediction) for prediction in predictions]))
        return DONE
    for prediction in predictions:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        classes = "  ".join(f"{name} {probability:.1%}" for name, probability in pairs)
        console.print(prediction.image, soft_wrap=True)
        console.print(Padding(Text(classes), (0, 0, 0, 4)))
    return DONE


def main(argv: list[str] | None = None) -> int:
    return run_command(lambda arguments: run(parser().parse_args(arguments)), argv, output_is_result=True)


if __name__ == "__main__":
    sys.exit(main())
