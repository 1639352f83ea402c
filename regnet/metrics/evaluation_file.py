"""evaluation.npz, what a finished run's last evaluation saw: the confusion matrix, and mistakes with their images."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class EvaluationFile:
    """Of all test samples.

    Attributes:
        classes: str (classes,), their names by label.
        confusion: int64 (classes, classes): how often label r was predicted as c.
        confidence: float32 (n,), of the most confident mistakes, falling, 0 to 1.
        labels, predicted: int64 (n,), of the same.
        images: uint8 (n, H, W, 3), the same as the network saw them.
    """

    classes: np.ndarray
    confusion: np.ndarray
    confidence: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    images: np.ndarray

    def pack(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **vars(self))
        return buffer.getvalue()


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Pairs of different labels and how often the first was predicted as the second, most often first."""
    wrong = confusion - np.diag(confusion.diagonal())
    places = [divmod(int(place), len(wrong)) for place in np.argsort(-wrong, axis=None, kind="stable")[:count]]
    return [(label, predicted, int(wrong[label, predicted])) for label, predicted in places if wrong[label, predicted]]


def read_evaluation_file(path: Path) -> EvaluationFile:
    """Raises OSError if it cannot be read, ValueError if it is something else."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = EvaluationFile(**arrays)
    except (zipfile.BadZipFile, TypeError, EOFError) as error:
        raise ValueError(f"{path}: not what a run leaves ({error})") from error
    classes, mistakes = len(found.classes) if found.classes.ndim else 0, found.confidence.size
    shapes = (found.confusion.shape, found.images.shape[:1], found.labels.shape, found.predicted.shape)
    if shapes != ((classes, classes), (mistakes,), (mistakes,), (mistakes,)):
        raise ValueError(f"{path}: not what a run leaves (shapes {shapes})")
    return found
