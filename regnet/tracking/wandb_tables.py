"""Tables of the last evaluation for Weights & Biases."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from regnet.metrics.evaluation_file import EvaluationFile

MAX_ROWS = 10_000  # of a table that Weights & Biases shows; a confusion matrix has more from 101 classes on


def tables(result: Mapping[str, Any], evaluation: EvaluationFile) -> dict[str, Any]:
    """Accuracy per class, confusion matrix, most confident errors."""
    import wandb

    names = evaluation.classes.tolist()
    classes = [[name, result["class_accuracy"][name], result["class_samples"][name]] for name in names]
    largest = np.argsort(-evaluation.confusion, axis=None, kind="stable")[:MAX_ROWS]
    cells = [(*divmod(int(index), len(names)), int(evaluation.confusion.flat[index])) for index in largest]
    predicted = [[names[label], names[other], count] for label, other, count in sorted(cells) if count]
    errors = [
        [wandb.Image(image), names[label], names[other], float(confidence)]
        for image, label, other, confidence in zip(
            evaluation.images, evaluation.labels, evaluation.predicted, evaluation.confidence, strict=True
        )
    ]
    columns = ("Actual", "Predicted", "nPredictions")  # the names that the chart expects
    confusion = wandb.Table(columns=[*columns], data=predicted)
    fields = {column: column for column in columns}
    return {
        "val/classes": wandb.Table(columns=["class", "accuracy", "samples"], data=classes),
        "val/confusion": wandb.plot_table("wandb/confusion_matrix/v1", confusion, fields, {"title": "confusion"}),
        "val/confident_errors": wandb.Table(columns=["image", "class", "predicted as", "confidence"], data=errors),
    }
