"""What a trained network takes images for.

python -m regnet.predict --checkpoint runs/baseline/checkpoints/best.pt images... [--shards DIR] [--json]
python -m regnet.predict --onnx seed.onnx images...        a file of regnet.export --normalize, alone
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

from data.augment.image_transforms import Augment
from data.errors import DataError
from data.inference_transform import InferenceTransform
from data.shard_writer import DECODE_ERRORS
from regnet.checkpoint.load_model import load_trained_model
from regnet.data_adapter import manifest_and_transform
from regnet.errors import UsageError
from regnet.exit_codes import DONE, USAGE

FORMATS = (".png", ".jpg", ".jpeg")
BATCH = 64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Classifier:
    """A network from wherever it comes.

    Attributes:
        classes: their names, by label.
        prepared: makes a picture in RGB what its test images were, uint8 (side, side, 3).
        logits: uint8 (N, side, side, 3) -> float32 (N, classes).
    """

    classes: tuple[str, ...]
    prepared: InferenceTransform
    logits: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """An image and what it is most probably: names and probabilities, most probable first."""

    image: str
    classes: list[str]
    probabilities: list[float]


def from_checkpoint(path: Path, shards: Path | None) -> Classifier:
    trained = load_trained_model(path)
    manifest, prepared = manifest_and_transform(trained, shards)
    prepare = as_in_evaluation(manifest.mean, manifest.std, trained.config.data.resolution)

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return trained.model(prepare(images))

    return Classifier(trained.classes, prepared, logits)


def from_onnx(path: Path) -> Classifier:
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, which it exports no names for
        raise UsageError(f"{path}: cannot be opened ({str(error).splitlines()[0][:200]})") from error
    told = session.get_modelmeta().custom_metadata_map
    if "preparation" not in told or "classes" not in told:
        raise UsageError(f"{path}: not made by python -m regnet.export --normalize")
    prepare = as_in_evaluation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), int(told["resolution"]))

    def logits(images: Tensor) -> Tensor:
        (found,) = session.run(["logits"], {"images": prepare(images).contiguous().numpy()})
        return torch.from_numpy(found)

    return Classifier(tuple(json.loads(told["classes"])), InferenceTransform(**json.loads(told["preparation"])), logits)


def as_in_evaluation(mean: Sequence[float], std: Sequence[float], resolution: int) -> Callable[[Tensor], Tensor]:
    """uint8 (N, side, side, 3) -> float32 (N, 3, resolution, resolution), as the test images are prepared."""
    return Augment(mean, std, resolution, CPU).evaluation


def find_images(places: Sequence[Path]) -> list[Path]:
    """The named files, and all images below the named folders. Raises UsageError for a place that is neither."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for path in place.rglob("*") if path.suffix.lower() in FORMATS)
        elif place.is_file():
            found.append(place)
        else:
            raise UsageError(f"{place}: no such file or directory")
    if not found:
        raise UsageError(f"no images ({', '.join(FORMATS)}) in {', '.join(map(str, places))}")
    return found


def read_image(path: Path, prepared: InferenceTransform) -> np.ndarray:
    """uint8 (side, side, 3). Raises DataError for what cannot be decoded."""
    try:
        with Image.open(path) as image:
            image.load()
            return prepared(image.convert("RGB"))
    except DECODE_ERRORS as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error


def predict(classifier: Classifier, paths: Sequence[Path], top: int) -> Iterator[Prediction]:
    for first in range(0, len(paths), BATCH):
        part = paths[first : first + BATCH]
        images = torch.from_numpy(np.stack([read_image(path, classifier.prepared) for path in part]))
        best = classifier.logits(images).softmax(1).topk(min(top, len(classifier.classes)))
        for path, labels, probabilities in zip(part, best.indices.tolist(), best.values.tolist(), strict=True):
            yield Prediction(str(path), [classifier.classes[label] for label in labels], probabilities)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m regnet.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path)
    source.add_argument("--onnx", type=Path)
    parser.add_argument("--shards", type=Path, help="whose manifest, if not those that the run was trained on")
    parser.add_argument("--top", type=int, default=5, help="how many classes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("images", type=Path, nargs="+", help="PNG and JPEG files, and folders of them")
    args = parser.parse_args(argv)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        if args.top < 1:
            raise UsageError(f"--top is {args.top}: at least one class")
        paths = find_images(args.images)
        opened = from_checkpoint(args.checkpoint, args.shards) if args.checkpoint else from_onnx(args.onnx)
        predictions = list(predict(opened, paths, args.top))
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if args.json:
        print(json.dumps([asdict(prediction) for prediction in predictions], indent=1))
        return DONE
    for prediction in predictions:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        told = "  ".join(f"{name} {probability:.1%}" for name, probability in pairs)
        console.print(prediction.image, soft_wrap=True)
        console.print(Padding(Text(told), (0, 0, 0, 4)))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
