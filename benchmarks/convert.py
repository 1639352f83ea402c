"""Measures what the conversion costs per image, against FFCV's own writer.

python -m benchmarks.convert [--root DIR] [--json FILE]

Both sides store the same images as JPEG (quality 95, sides up to 500 pixels) in one file, with one writer process:

* this project: python -m data.convert with --longest-side 500 --mode jpg --shards 1, which also computes the channel
  statistics, the digests of samples and files, and checks every image;
* FFCV: ffcv.writer.DatasetWriter over a dataset that opens the files with PIL, as torchvision's ImageFolder does.

Without --root, the images are generated: smooth colours with noise, 500x400 pixels, JPEG.

Each measurement is a forked process, and alternates with the other side. CPU time covers the process and all that it
starts, and is divided by the number of images; the imports are done before. Memory is the peak of the largest process;
it includes what the imports take. Ratios are computed round by round. Other programs on the machine affect CPU time
less than wall time, but do affect it.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import command
from benchmarks.launch import SIGNAL_SECONDS, end_tree, exit_when_signalled
from benchmarks.timing import Spread, environment
from commandline.interrupts import SIGNALS, held_back
from data.convert import main as convert_images
from data.errors import DataError, WriterError
from data.reading.ffcv_imports import DatasetWriter, IntField, RGBImageField
from data.sources.registry import Kind, open_source

LONGEST_SIDE, QUALITY = 500, 95  # of the stored images
WIDTH, HEIGHT, CLASSES = 500, 400, 4  # of the generated images
PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
UNITS = {"cpu_ms": "CPU ms per image", "wall_ms": "ms per image", "memory_mb": "peak memory, MB"}


@dataclass(frozen=True)
class Cost:
    """Of one conversion: CPU and wall time per image, and peak memory of the largest process."""

    cpu_ms: float
    wall_ms: float
    memory_mb: float


def write_images(root: Path, count: int) -> None:
    """Generates JPEGs in one folder per class."""
    random = np.random.default_rng(0)
    for index in range(count):
        folder = root / f"class_{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = smooth + random.integers(-12, 13, smooth.shape, dtype=np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=90)


def convert(root: Path, out: Path) -> None:
    """This project's side. Exits if it fails or is interrupted: it has printed the reason."""
    options = ["--source", "folder", "--root", str(root), "--out", str(out), "--hold-out", "1", "--shards", "1"]
    options += ["--longest-side", str(LONGEST_SIDE), "--mode", "jpg", "--quality", str(QUALITY), "--workers", "1"]
    if exit_code := convert_images(options):
        sys.exit(exit_code)


class Files:
    """The images of class folders as RGB arrays, with labels."""

    def __init__(self, root: Path) -> None:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        self.files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            return image.convert("RGB"), label


def write_with_ffcv(root: Path, out: Path) -> None:
    """FFCV's side: its defaults but for the storage."""
    out.mkdir()
    image = RGBImageField(write_mode="jpg", max_resolution=LONGEST_SIDE, jpeg_quality=QUALITY)
    writer = DatasetWriter(str(out / "images.beton"), {"image": image, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Files(root))
    for process in multiprocessing.active_children():
        process.join()  # FFCV does not; only then does its CPU time count


SIDES = {"regnet": convert, "ffcv": write_with_ffcv}


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Not tempfile.TemporaryDirectory, which an interrupt while it is deleted leaves behind."""
    folder = None
    try:
        with held_back():
            folder = Path(tempfile.mkdtemp(prefix="regnet-benchmark-"))
        yield folder
    finally:
        with held_back():
            if folder is not None:
                shutil.rmtree(folder)


def cost_of(name: str, root: Path, images: int) -> Cost:
    """Runs one side in a new process. Raises WriterError if it fails."""
    context = multiprocessing.get_context("fork")
    result, child_end = context.Pipe(duplex=False)
    with temporary_directory() as folder:
        process = context.Process(target=_measure, args=(SIDES[name], root, folder / "out", child_end))
        try:
            with held_back():  # a signal that reaches the new process must not run the handlers of this one there
                process.start()
            child_end.close()
            wait([result, process.sentinel])  # FFCV's processes may hold the pipe open when the new process has died
            if not result.poll():
                raise EOFError
            cpu, wall, memory = result.recv()
        except EOFError as error:
            raise WriterError(f"the conversion by {name} failed: see the error above") from error
        finally:
            with held_back():
                if process.pid is not None:  # it has started
                    _end(process.pid)
                    process.join(SIGNAL_SECONDS)
    return Cost(1000 * cpu / images, 1000 * wall / images, memory * 1024 / 1e6)


def _end(pid: int) -> None:
    """Ends a measuring process and those of FFCV, which would outlive it."""
    end_tree(pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _measure(side: Callable[[Path, Path], None], root: Path, out: Path, result: Connection) -> None:
    os.setsid()  # Ctrl-C does not reach this process; its parent ends it
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        cpu, wall = _cpu_seconds(), time.perf_counter()
        side(root, out)
        spent = _cpu_seconds() - cpu, time.perf_counter() - wall
    result.send((*spent, max(resource.getrusage(who).ru_maxrss for who in PROCESSES)))


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in PROCESSES]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(root: Path, images: int, rounds: int) -> dict[str, Spread]:
    """Costs of both sides, and their ratios, this project's to FFCV's."""
    costs: dict[str, list[Cost]] = {name: [] for name in SIDES}
    for number in range(rounds):
        for name in SIDES if number % 2 == 0 else reversed(SIDES):
            costs[name].append(cost_of(name, root, images))
    results = {}
    for unit in UNITS:
        for name in SIDES:
            results[f"{name}_{unit}"] = Spread.of([getattr(cost, unit) for cost in costs[name]])
        pairs = zip(costs["regnet"], costs["ffcv"], strict=True)
        results[f"ratio_{unit}"] = Spread.of([getattr(ours, unit) / getattr(theirs, unit) for ours, theirs in pairs])
    return results


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures both sides; returns the report for the JSON file."""
    command.check_output_paths(args, "json")
    machine = environment(torch.device("cpu"))
    with temporary_directory() as folder:
        root = args.root or folder
        if args.root is None:
            write_images(root, args.images)
        source, _ = open_source(Kind.folder, root, validation=1)
        images = len(source.train) + len(source.val)
        results = compare(root, images, args.rounds)
    return {
        **machine,
        "versions": {name: version(name) for name in ("ffcv", "pillow", "opencv-python-headless", "numpy")},
        "root": str(args.root or f"generated, {WIDTH}x{HEIGHT} pixels"),
        "images": images,
        "rounds": args.rounds,
        "results": {name: asdict(spread) for name, spread in results.items()},
    }


def show(report: dict[str, Any]) -> None:
    """Prints the environment, the settings and the results as a table."""
    command.print_environment(report)
    print(", ".join(f"{name} {number}" for name, number in report["versions"].items()))
    print(f"{report['images']:,} images ({report['root']}), one writer, {report['rounds']} rounds")
    table = Table()
    for heading in ("", "this project", "FFCV", "ratio", "min..max"):
        table.add_column(heading, justify="right" if heading else "left")
    for unit, label in UNITS.items():
        ours, theirs, ratio = (report["results"][f"{name}_{unit}"] for name in ("regnet", "ffcv", "ratio"))
        table.add_row(
            label,
            f"{ours['median']:.2f}",
            f"{theirs['median']:.2f}",
            f"{ratio['median']:.2f}",
            f"{ratio['lowest']:.2f}..{ratio['highest']:.2f}",
        )
    Console().print(table)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder with one folder of images per class (default: generated)"
    )
    parser.add_argument(
        "--images",
        type=command.positive,
        default=400,
        metavar="N",
        help="number of generated images (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=command.positive,
        default=5,
        metavar="N",
        help="measurements of each side (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results, including each round")
    return parser.parse_args(argv)


if __name__ == "__main__":
    exit_when_signalled()
    arguments = parse(sys.argv[1:])
    sys.exit(command.run_benchmark(arguments, lambda: measure(arguments), show, WriterError, DataError))
