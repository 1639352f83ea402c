"""Classify images with a trained model.

examples:
  python -m regnet.predict --checkpoint runs/baseline/checkpoints/best.pt cat.jpg photos/
  python -m regnet.predict --onnx baseline.onnx --top 3 --json photos/
"""

from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

import argparse
import itertools
import json
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from commandline.arguments import ArgumentParser, positive_integer
from commandline.command import run_command
from commandline.exit_codes import DONE, FAILED
from commandline.paths import path_argument, path_option
from data.augment.resize_normalize import ResizeNormalize
from data.errors import DataError
from data.image_files import describe_ignored, image_files_in
from data.image_reading import describe_changes, naming, read_image
from data.inference_transform import InferenceTransform
from regnet.checkpoint.load_model import load_trained_model
from regnet.data_adapter import manifest_and_transform
from regnet.errors import UsageError
from regnet.runs.json_format import format_json

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


def from_checkpoint(path: str | Path, shards: str | Path | None = None) -> Classifier:
    """The network of a checkpoint; the manifest of the shards describes how to prepare images."""
    trained = load_trained_model(path)
    manifest, transform = manifest_and_transform(trained, shards)
    normalize = evaluation_transform(manifest.mean, manifest.std, trained.config.data.resolution)

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return trained.model(normalize(images))

    return Classifier(trained.classes, transform, logits)


def from_onnx(path: str | Path) -> Classifier:
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


def find_images(paths: Sequence[Path], ignored: Counter[str]) -> list[Path]:
    """The named files, and the images in the named folders, where other files are counted in `ignored`.

    Raises:
        UsageError: a path does not exist, or there are no images.
        DataError: a folder cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        try:
            path.lstat()  # a link to a file that is gone is an image that cannot be read, as in a folder
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        found += map(Path, image_files_in(path, ignored)) if os.path.isdir(path) else [path]
    if not found:
        raise UsageError(": ".join([f"no images in {', '.join(map(str, paths))}", *describe_ignored(ignored)]))
    return found


def read_images(
    paths: Sequence[Path], transform: InferenceTransform, changes: Counter[str], errors: list[DataError]
) -> Iterator[tuple[Path, np.ndarray]]:
    """The images that can be read, uint8 (side, side, 3), with their paths.

    Args:
        changes: counts what was changed in images, see `data.image_reading`.
        errors: gets an error for each of the other images.
    """
    for path in paths:
        try:
            with naming(str(path)):
                image, changed = read_image(path)
                pixels = transform(image)
        except DataError as error:
            errors.append(error)
            continue
        changes.update(changed)
        yield path, pixels


def predict(classifier: Classifier, images: Iterable[tuple[Path, np.ndarray]], top: int) -> Iterator[Prediction]:
    """The `top` most probable classes of each image, in order."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, BATCH_SIZE)):
        pixels = torch.from_numpy(np.stack([pixels for _, pixels in batch]))
        best = classifier.logits(pixels).softmax(1).topk(min(top, len(classifier.classes)))
        for (path, _), labels, probabilities in zip(batch, best.indices.tolist(), best.values.tolist(), strict=True):
            yield Prediction(str(path), [classifier.classes[label] for label in labels], probabilities)


def classify(classifier: Classifier, paths: Iterable[str | Path], top: int = 5) -> list[Prediction]:
    """The `top` most probable classes of image files. Raises DataError for the first that cannot be read."""
    errors = list[DataError]()
    images = read_images([Path(path) for path in paths], classifier.transform, Counter(), errors)
    predictions = list(predict(classifier, images, top))
    if errors:
        raise errors[0]
    return predictions


def parser() -> argparse.ArgumentParser:
    """The command line of python -m regnet.predict."""
    options = ArgumentParser(
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
        "--top",
        type=positive_integer,
        default=5,
        metavar="N",
        help="number of classes per image (default: %(default)s)",
    )
    options.add_argument("--json", action="store_true", help="print JSON (default: text)")
    options.add_argument(
        "images",
        type=path_argument,
        nargs="+",
        metavar="IMAGE",
        help="image file, or folder to search for image files, hidden ones excepted",
    )
    return options


def run(args: argparse.Namespace) -> int:
    ignored, changes, errors = Counter[str](), Counter[str](), list[DataError]()
    paths = find_images(args.images, ignored)
    classifier = from_checkpoint(args.checkpoint, args.shards) if args.checkpoint else from_onnx(args.onnx)
    predictions = predict(classifier, read_images(paths, classifier.transform, changes, errors), args.top)
    as_json = format_json([asdict(prediction) for prediction in predictions]) + "\n" if args.json else ""
    for prediction in predictions:  # as they are made
        print(as_text(prediction), flush=True)
    if len(paths) == len(errors) == 1:
        raise errors[0]
    print(as_json, end="")
    for note in [*describe_ignored(ignored), *describe_changes(changes)]:
        print(f"note: {note}", file=sys.stderr)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        print(f"failed: {len(errors)} of {len(paths)} images cannot be read", file=sys.stderr)
    return FAILED if errors else DONE


def as_text(prediction: Prediction) -> str:
    """Two lines, however wide the terminal and whatever the file's name: control characters in it are escaped."""
    name = "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) == "Cc" else character
        for character in prediction.image
    )
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return f"{name}\n    " + "  ".join(f"{label} {probability:.1%}" for label, probability in pairs)


def main(argv: list[str] | None = None) -> int:
    return run_command(lambda arguments: run(parser().parse_args(arguments)), argv, output_is_result=True)


if __name__ == "__main__":
    sys.exit(main())
