"""What a finished run writes: result.json and evaluation.npz."""

from typing import Any

import numpy as np
import torch

from regnet.metrics.evaluation import Evaluation
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.models.regnet import count_parameters, fingerprint
from regnet.training.dataset import Dataset
from regnet.training.state import TrainingState


def result_of(evaluation: Evaluation, state: TrainingState, dataset: Dataset) -> dict[str, Any]:
    """The contents of result.json; `evaluation` is that of the last weights."""
    classes = dataset.classes
    return {
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "calibration_error": evaluation.calibration_error,
        "samples": evaluation.samples,
        "best_top1": state.progress.best_top1,
        "epochs": state.progress.epoch,
        "parameters": count_parameters(state.model),
        "weights_sha256": fingerprint(state.evaluated),
        "class_accuracy": dict(zip(classes, evaluation.class_accuracy(), strict=True)),
        "class_samples": dict(zip(classes, evaluation.class_samples(), strict=True)),
    }


def evaluation_file(evaluation: Evaluation, dataset: Dataset) -> EvaluationFile:
    """The contents of evaluation.npz: confusion matrix, calibration, most confident errors with their images."""
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (dataset.mean, dataset.std))
    errors = evaluation.confident_errors
    assert errors is not None
    images = ((errors.images * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return EvaluationFile(
        classes=np.array(dataset.classes),
        confusion=evaluation.confusion.numpy(),
        confidence=errors.confidence.numpy(),
        labels=errors.labels.numpy(),
        predicted=errors.predicted.numpy(),
        images=images.numpy(),
        calibration=None if evaluation.calibration is None else evaluation.calibration.numpy(),
    )
