"""A trained network by itself, as ONNX, checked against PyTorch, and as pictures.

python -m regnet.export --checkpoint runs/baseline/checkpoints/best.pt --onnx seed.onnx [--normalize]
python -m regnet.export --checkpoint runs/baseline/checkpoints/best.pt --architecture seed.svg --graph graph.svg
python -m regnet.export --checkpoint runs/baseline/checkpoints/best.pt --weights seed.pt
"""

import argparse
import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from data.errors import DataError
from data.inference_transform import InferenceTransform
from regnet.checkpoint.load_model import TrainedModel, load_trained_model, weights_only_checkpoint
from regnet.data_adapter import manifest_and_transform
from regnet.errors import UsageError
from regnet.exit_codes import DONE, FAILED, USAGE
from regnet.export.diagram import check_format, draw_architecture, draw_graph

BATCHES = (1, 2, 7, 32)
BOUND = 1e-4  # of logits; the same sums in another order differ by about 1e-6 of them


class Normalized(nn.Module):
    """The network behind the normalisation that it was trained with: images (N, 3, H, W) of 0 to 1 -> logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def export_onnx(trained: TrainedModel, network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes one file with a free batch dimension: `images` float32 (N, 3, side, side) -> `logits` (N, classes)."""
    side = trained.config.data.resolution
    warnings.simplefilter("ignore", FutureWarning)  # of the exporter's own calls
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, side, side),),
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
        del node.metadata_props[:]  # the exporter's call stack, with the paths of this machine
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def describe(trained: TrainedModel, prepared: InferenceTransform | None) -> dict[str, str]:
    """What whoever is given the file alone has to know; with a preparation, normalisation is inside."""
    inside = {} if prepared is None else {"preparation": json.dumps(asdict(prepared))}
    return {
        "classes": json.dumps(trained.classes),
        "resolution": str(trained.config.data.resolution),
        "normalized": "outside" if prepared is None else "inside, images are 0 to 1",
        "epochs": str(trained.epochs),
        "name": trained.config.name,
        **inside,
    }


def largest_difference(network: nn.Module, path: Path, side: int) -> float:
    """Of the logits, between PyTorch and onnxruntime, over batches of several sizes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in BATCHES:
        images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            expected = network(images)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        worst = max(worst, (torch.from_numpy(found) - expected).abs().max().item())
    return worst


def write_onnx(trained: TrainedModel, args: argparse.Namespace) -> int:
    network: nn.Module = trained.model
    prepared = None
    if args.normalize:
        manifest, prepared = manifest_and_transform(trained, args.shards)
        network = Normalized(network, manifest.mean, manifest.std)
    export_onnx(trained, network, args.onnx, describe(trained, prepared))
    worst = largest_difference(network, args.onnx, trained.config.data.resolution)
    sizes = ", ".join(map(str, BATCHES))
    print(f"{args.onnx}: {args.onnx.stat().st_size / 1e6:.1f} MB; largest difference from PyTorch {worst:.1e}", end="")
    print(f" at batches of {sizes} ({args.bound:.0e} is allowed)")
    if worst > args.bound:
        print(f"failed: {args.onnx} differs from PyTorch by more than {args.bound:.0e}", file=sys.stderr)
        return FAILED
    return DONE


def run(args: argparse.Namespace) -> int:
    wanted = (args.onnx, args.weights, args.graph, args.architecture)
    files = [path.absolute() for path in wanted if path is not None]
    if not files:
        raise UsageError("nothing to write: name --onnx, --weights, --architecture or --graph")
    if len(set(files)) < len(files):
        raise UsageError(f"{files[0]}: one file for two things")
    if args.checkpoint.resolve() in {path.resolve() for path in files}:
        raise UsageError(f"{args.checkpoint}: would be written over")
    for path in filter(None, (args.graph, args.architecture)):
        check_format(path)
    trained = load_trained_model(args.checkpoint)
    for path, draw in ((args.architecture, draw_architecture), (args.graph, draw_graph)):
        if path is not None:
            draw(trained, path)
            print(f"{path}: {path.stat().st_size / 1e3:,.0f} KB")
    if args.weights is not None:
        args.weights.write_bytes(weights_only_checkpoint(args.checkpoint))
        print(f"{args.weights}: {args.weights.stat().st_size / 1e6:.1f} MB")
    return DONE if args.onnx is None else write_onnx(trained, args)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m regnet.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, metavar="FILE")
    parser.add_argument("--normalize", action="store_true", help="takes images of 0 to 1; needs the shards' manifest")
    parser.add_argument("--shards", type=Path, help="whose manifest, if not those that the run was trained on")
    parser.add_argument("--bound", type=float, default=BOUND, help="largest difference of logits (%(default)g)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint of the network without its training")
    parser.add_argument("--architecture", type=Path, metavar="FILE", help="svg, png, pdf: its stages, to be read")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="svg, png, pdf: autograd's graph; needs graphviz")
    args = parser.parse_args(argv)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        return run(args)
    except (UsageError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
