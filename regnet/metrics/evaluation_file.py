"""evaluation.npz of a finished run: confusion matrix, calibration and most confident errors of the last evaluation."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class EvaluationFile:
    """Arrays of evaluation.npz, over all validation samples.

    Attributes:
        classes: str (classes,), class names by label.
        confusion: int64 (classes, classes); entry [r, c]: number of samples with label r that were predicted as c.
        confidence: float32 (n,), confidence of the n most confident errors, in decreasing order, 0 to 1.
        labels, predicted: int64 (n,), their labels and predictions.
        images: uint8 (n, H, W, 3), the input of the network for them.
        calibration: float64 (3, bins): number of samples, correct predictions and sum of confidences in each of the
            confidence bins, which divide 0 to 1 equally; None in files of runs that did not record it.
    """

    classes: np.ndarray
    confusion: np.ndarray
    confidence: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    images: np.ndarray
    calibration: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: array for name, array in vars(self).items() if array is not None})
        return buffer.getvalue()


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The most frequent confusions, at most `count`: (label, predicted, number of samples), most frequent first."""
    errors = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    pairs = [divmod(int(index), len(errors)) for index in order]
    return [(label, predicted, int(errors[label, predicted])) for label, predicted in pairs if errors[label, predicted]]


def read_evaluation_file(path: Path) -> EvaluationFile:
    """Reads evaluation.npz.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not the evaluation of a run.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            evaluation = EvaluationFile(**arrays)
    except (zipfile.BadZipFile, TypeError, EOFError) as error:
        raise ValueError(f"{path}: not a valid evaluation file ({error})") from error
    classes = len(evaluation.classes) if evaluation.classes.ndim else 0
    errors = evaluation.confidence.size
    shapes = (
        evaluation.confusion.shape,
        evaluation.images.shape[:1],
        evaluation.labels.shape,
        evaluation.predicted.shape,
    )
    if shapes != ((classes, classes), (errors,), (errors,), (errors,)):
        raise ValueError(f"{path}: not a valid evaluation file (shapes {shapes})")
    if evaluation.calibration is not None and (evaluation.calibration.ndim, *evaluation.calibration.shape[:1]) != (
        2,
        3,
    ):
        raise ValueError(f"{path}: not a valid evaluation file (calibration has shape {evaluation.calibration.shape})")
    return evaluation
