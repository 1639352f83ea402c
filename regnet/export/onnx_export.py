"""ONNX models: export with a free batch dimension, and comparison of their logits with PyTorch's."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from data.inference_transform import InferenceTransform
from regnet.checkpoint.load_model import TrainedModel
from regnet.data_adapter import manifest_and_transform
from regnet.runs.atomic_write import replace_file

BATCH_SIZES = (1, 2, 7, 32)
TOLERANCE = 1e-4  # of logits; summation in another order changes them by about 1e-6 of their value


class NormalizedModel(nn.Module):
    """The network with its input normalisation: images (N, 3, H, W) in [0, 1] -> logits (N, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def export_onnx(
    trained: TrainedModel, path: str | Path, normalize: bool = False, shards: str | Path | None = None
) -> float:
    """Writes the ONNX model; returns the largest difference between its logits and PyTorch's.

    Args:
        normalize: include the input normalisation of the shards' manifest.
        shards: shards with the manifest to use; None for those that the network was trained on.

    Raises:
        DataError, UsageError: the manifest is needed and cannot be read, or has other classes.
        OSError: the file cannot be written.
    """
    path = Path(path)
    network: nn.Module = trained.model
    transform = None
    if normalize:
        manifest, transform = manifest_and_transform(trained, shards)
        network = NormalizedModel(network, manifest.mean, manifest.std)
    resolution = trained.config.data.resolution
    write_model(network, resolution, path, metadata(trained, transform))
    return largest_difference(network, resolution, path)


def write_model(network: nn.Module, resolution: int, path: Path, properties: dict[str, str]) -> None:
    """Writes one file: `images` float32 (N, 3, resolution, resolution) -> `logits` float32 (N, classes)."""
    warnings.simplefilter("ignore", FutureWarning)  # raised by the exporter's own calls
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, resolution, resolution),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter's call stack, with local paths
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    replace_file(path, model.SerializeToString())


def metadata(trained: TrainedModel, transform: InferenceTransform | None) -> dict[str, str]:
    """Everything that is needed to use the file alone; `transform` is None if normalisation is not included."""
    properties = {
        "name": trained.config.name,
        "epochs": str(trained.epochs),
        "classes": json.dumps(trained.classes),
        "resolution": str(trained.config.data.resolution),
        "normalization": "not included",
    }
    if transform is not None:
        properties["normalization"] = "included, images are in [0, 1]"
        properties["inference_transform"] = json.dumps(asdict(transform))
    return properties


def largest_difference(network: nn.Module, resolution: int, path: Path) -> float:
    """The largest absolute difference between PyTorch's and onnxruntime's logits, over several batch sizes.

    NaN if any logit is not finite.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest = torch.zeros(())
    for size in BATCH_SIZES:
        images = torch.rand(size, 3, resolution, resolution, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            expected = network(images)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        largest = largest.maximum((torch.from_numpy(logits) - expected).abs().max())
    return largest.item()
