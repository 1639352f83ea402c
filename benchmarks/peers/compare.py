"""Runs all trainers alternately, round by round."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.command import Report
from benchmarks.images import StoredImages
from benchmarks.launch import Launcher, LaunchFailed
from benchmarks.peers import options, samples
from benchmarks.peers.outcome import Outcome, check, combine
from benchmarks.peers.protocol import RankReport, Settings
from benchmarks.peers.roster import OURS, Peer, select, versions
from benchmarks.timing import Spread, environment, ratio
from data.manifest import Manifest, Verify, read_manifest, verify
from data.reading.shard_reader import ShardReader
from data.sampler import epoch_order
from regnet.config.parser import parse_config
from regnet.config.schema import Config


def measure(args: argparse.Namespace) -> Report:
    """Measures all trainers; returns the report for the JSON file.

    Raises:
        UsageError, DataError: invalid options, missing packages, or unusable shards.
        LaunchFailed: a trainer failed; the message names it.
    """
    options.complete(args)
    peers = select(args.peers)
    packages = versions(peers, args.network)
    machine = environment(torch.device(args.device))
    # In runs/, so that this trainer's checkpoints go to the same disk as in normal training.
    runs = Path("runs").resolve()
    runs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=runs) as folder:
        settings = prepare_settings(args, Path(folder))
        launcher = Launcher(args.processes, args.threads, args.timeout, runs)
        outcomes, memory = rounds(peers, settings, launcher, args.rounds)
    return {
        **machine,
        "versions": packages,
        "processes": args.processes,
        "threads": args.threads,
        "rounds": args.rounds,
        "settings": {key: value for key, value in asdict(settings).items() if key not in _LAUNCH_SPECIFIC},
        "results": results(outcomes, memory),
    }


_LAUNCH_SPECIFIC = ("images", "config", "reports", "launched")


def prepare_settings(args: argparse.Namespace, folder: Path) -> Settings:
    """Writes this trainer's configuration and the other trainers' images to `folder`.

    Raises:
        UsageError, DataError: invalid options, or unusable shards.
    """
    config = parse_config(options.trainer_flags(args))
    shards = Path(config.data.shards)
    manifest = read_manifest(shards)
    settings = options.settings(args, config, manifest)
    verify(shards, manifest, Verify.once)
    write_images(folder, shards, manifest, config, settings)
    file = folder / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    return replace(settings, images=str(folder), config=str(file))


def write_images(folder: Path, shards: Path, manifest: Manifest, config: Config, settings: Settings) -> None:
    """Writes the validation images, and the training images of this trainer's first epoch in their order."""
    size = settings.batch_size
    reader = ShardReader(shards, manifest, size, 1, config.data.prefetch_batches, config.data.loader_timeout)
    order = epoch_order(manifest.samples("train"), config.seed, 0)[: settings.steps * size]
    for split, ids in (("train", order), ("val", torch.arange(manifest.samples("val")))):
        samples.write(StoredImages.read(reader, split, ids, size), folder, split)


def rounds(
    peers: list[Peer], settings: Settings, launcher: Launcher, count: int
) -> tuple[dict[str, list[Outcome]], dict[str, int]]:
    """The outcomes of each trainer by name, and its peak memory in bytes.

    A launch of one epoch before the first round fills the page cache and measures memory. Every other round runs in
    reverse order, to cancel slow drifts of the machine's speed.
    """
    outcomes: dict[str, list[Outcome]] = {peer.name: [] for peer in peers}
    memory = {}
    for peer in peers:
        _, memory[peer.name] = _launch(peer, replace(settings, epochs=1), launcher, "trial launch", measure_memory=True)
    for number in range(1, count + 1):
        for peer in peers if number % 2 else reversed(peers):
            outcome, _ = _launch(peer, settings, launcher, f"round {number}")
            outcomes[peer.name].append(outcome)
            _print_progress(f"round {number}, {peer.label}: {outcome.images_per_second:,.1f} images/s")
    return outcomes, memory


def _launch(
    peer: Peer, settings: Settings, launcher: Launcher, stage: str, measure_memory: bool = False
) -> tuple[Outcome, int]:
    with tempfile.TemporaryDirectory(dir=settings.images) as reports:
        settings = replace(settings, reports=reports, launched=time.monotonic())
        try:
            reports_written, memory = launcher.launch(peer.module, asdict(settings), Path(reports), measure_memory)
            outcome = combine(list(map(RankReport.read, reports_written)))
            check(outcome, peer, settings)
        except LaunchFailed as failure:
            raise LaunchFailed(f"{peer.label} ({peer.name}), {stage}: {failure}") from failure
    return outcome, memory


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def results(outcomes: dict[str, list[Outcome]], memory: dict[str, int]) -> dict[str, Any]:
    """Spreads over the rounds, memory, losses and all launches of each trainer."""
    rates = {name: [outcome.images_per_second for outcome in launches] for name, launches in outcomes.items()}

    def spread(name: str, value: Callable[[Outcome], float]) -> dict[str, Any]:
        return asdict(Spread.of([value(outcome) for outcome in outcomes[name]]))

    return {
        name: {
            "images_per_second": asdict(Spread.of(rates[name])),
            "ours_over_it": asdict(ratio(rates, OURS.name, name)),
            "first_step": spread(name, lambda outcome: outcome.first_step),
            "finished": spread(name, lambda outcome: outcome.finished),
            "memory_bytes": memory[name],
            "gpu_bytes": max(outcome.gpu_bytes for outcome in launches),
            "first_loss": median(outcome.epochs[0].loss for outcome in launches),
            "last_loss": median(outcome.epochs[-1].loss for outcome in launches),
            "learned": all(outcome.learned for outcome in launches),
            "launches": [asdict(outcome) for outcome in launches],
        }
        for name, launches in outcomes.items()
    }
