"""Export a trained network: its weights for this or another program, an ONNX model, or a diagram.

examples:
  python -m regnet.export --checkpoint runs/baseline/checkpoints/best.pt --weights baseline.pt
  python -m regnet.export --checkpoint runs/imagenet/checkpoints/best.pt --weights imagenet.safetensors --names timm
  python -m regnet.export --checkpoint runs/baseline/checkpoints/best.pt --onnx baseline.onnx --normalize
  python -m regnet.export --checkpoint runs/baseline/checkpoints/best.pt --architecture baseline.svg --graph graph.svg
"""

from commandline.startup import before_imports

if __name__ == "__main__":
    before_imports()

import argparse
import logging
import math
import sys

from commandline.arguments import ArgumentParser, positive_number
from commandline.command import run_command
from commandline.exit_codes import DONE, FAILED
from commandline.paths import check_output_file, path_option
from regnet.checkpoint.load_model import TrainedModel, load_trained_model
from regnet.checkpoint.pretrained import LIBRARIES
from regnet.errors import UsageError
from regnet.export.diagram import check_format, draw_architecture, draw_graph
from regnet.export.onnx_export import BATCH_SIZES, TOLERANCE, export_onnx
from regnet.export.weights_export import OWN_NAMES, check_names, export_weights


def parser() -> argparse.ArgumentParser:
    """The command line of python -m regnet.export."""
    options = ArgumentParser(
        prog="python -m regnet.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--checkpoint", type=path_option, required=True, metavar="FILE", help="checkpoint to export")
    options.add_argument(
        "--weights",
        type=path_option,
        metavar="FILE",
        help="write the weights alone: a .safetensors file, or a weights-only checkpoint, which cannot be resumed",
    )
    options.add_argument(
        "--names",
        choices=tuple(LIBRARIES),
        default=OWN_NAMES,
        help="whose tensor names a .safetensors file has; timm and torchvision need a network of model.variant paper "
        "(default: %(default)s)",
    )
    options.add_argument(
        "--onnx", type=path_option, metavar="FILE", help="write an ONNX model and compare it with PyTorch"
    )
    options.add_argument(
        "--normalize",
        action="store_true",
        help="include the input normalisation in the ONNX model, which then takes images in [0, 1] (default: off)",
    )
    options.add_argument(
        "--shards",
        type=path_option,
        metavar="DIR",
        help="shards whose manifest holds the normalisation (default: those that the network was trained on)",
    )
    options.add_argument(
        "--tolerance",
        type=positive_number,
        default=TOLERANCE,
        metavar="X",
        help="fail if ONNX and PyTorch logits differ by more than this (default: %(default)g)",
    )
    options.add_argument(
        "--architecture", type=path_option, metavar="FILE", help="draw the stem, stages and head (.svg, .png or .pdf)"
    )
    options.add_argument(
        "--graph",
        type=path_option,
        metavar="FILE",
        help="draw the autograd graph (.svg, .png or .pdf); requires graphviz",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    return run_command(lambda arguments: run(parser().parse_args(arguments)), argv)


def run(args: argparse.Namespace) -> int:
    """Writes the requested files; returns the exit code."""
    check_outputs(args)
    trained = load_trained_model(args.checkpoint)
    for path, draw in ((args.architecture, draw_architecture), (args.graph, draw_graph)):
        if path is not None:
            draw(trained, path)
            print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")
    if args.weights is not None:
        export_weights(args.checkpoint, args.weights, args.names)
        print(f"{args.weights}: {args.weights.stat().st_size / 1e6:.1f} MB")
    return DONE if args.onnx is None else write_onnx(trained, args)


def check_outputs(args: argparse.Namespace) -> None:
    """Raises UsageError if there is nothing to write, or if a file would be overwritten or has an unknown format."""
    requested = (args.weights, args.onnx, args.architecture, args.graph)
    paths = [path.resolve() for path in requested if path is not None]
    if not paths:
        raise UsageError("nothing to export: name at least one of --weights, --onnx, --architecture, --graph")
    if len(set(paths)) < len(paths):
        duplicate = next(path for path in paths if paths.count(path) > 1)
        raise UsageError(f"{duplicate} is named for two outputs: choose different files")
    if args.checkpoint.resolve() in paths:
        raise UsageError(f"{args.checkpoint} is the checkpoint to export and would be overwritten: choose another file")
    check_names(args.weights, args.names)
    for path in filter(None, (args.architecture, args.graph)):
        check_format(path)
    for option in ("weights", "onnx", "architecture", "graph"):
        if getattr(args, option) is not None:
            check_output_file(f"--{option}", getattr(args, option))


def write_onnx(trained: TrainedModel, args: argparse.Namespace) -> int:
    """Writes the ONNX model and reports how far it is from PyTorch; returns the exit code."""
    difference = export_onnx(trained, args.onnx, args.normalize, args.shards)
    if math.isnan(difference):
        print(f"failed: logits of {args.checkpoint} are not finite, so they cannot be compared", file=sys.stderr)
        return FAILED
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(
        f"{args.onnx}: {args.onnx.stat().st_size / 1e6:.1f} MB; largest difference from PyTorch {difference:.1e} "
        f"for batch sizes {sizes} (tolerance {args.tolerance:.0e})"
    )
    if difference > args.tolerance:
        print(f"failed: {args.onnx} differs from PyTorch by more than {args.tolerance:.0e}", file=sys.stderr)
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
