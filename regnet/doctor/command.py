"""The command: runs all checks on all ranks; rank zero prints the findings."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch

from commandline.exit_codes import DONE, FAILED
from data.errors import DataError
from data.manifest import read_manifest
from regnet.config.parser import help_requested, parse_config_with_notes
from regnet.config.schema import Config
from regnet.data_adapter import adapt_to_manifest, adapt_to_process
from regnet.distributed.heartbeat import COLLECTIVE_ERRORS, PeerLost
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import join_world
from regnet.doctor.communication import check_all_reduce, check_launch, check_placement, process_info, reports_device
from regnet.doctor.environment import check_device, check_node
from regnet.doctor.findings import Finding, any_failed, fail, merge, ok
from regnet.doctor.output import print_findings
from regnet.doctor.requirements import (
    build_untrained_model,
    check_node_requirements,
    check_run_requirements,
    count_classes,
)
from regnet.doctor.run_directory import check_run_directory
from regnet.models.regnet import count_parameters

TIMEOUT = 60.0  # seconds for the rendezvous and for each collective; less if distributed.timeout is
_EXPECTED = {PeerLost, *COLLECTIVE_ERRORS, torch.OutOfMemoryError, torch.AcceleratorError}
_HELP = """usage: python -m regnet.doctor [--config FILE ...] [--section.option VALUE ...] [--json]

Checks the environment and a configuration before a run: software, GPUs, limits, shards, memory, run directory and,
under torchrun or srun, communication between all processes.

examples:
  python -m regnet.doctor --config configs/baseline.yaml
  torchrun --nproc_per_node=2 -m regnet.doctor --config configs/baseline.yaml --train.batch_size 512

options:
  --json    print JSON (default: a table)

exit code: 0 if a run can start, 1 if it would fail, 2 for usage errors

All other options are those of the trainer:
"""


def main(argv: Sequence[str], started: float) -> int:
    """Runs the checks in this process; returns its exit code.

    Args:
        started: when the command started, by time.perf_counter().
    """
    rank = os.environ.get("RANK", "0")
    label = f" (rank {rank})" if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    as_json = "--json" in argv
    if help_requested(argv):
        print(_HELP)
    config, adapted = adapted_config([argument for argument in argv if argument != "--json"])
    launch_failures, findings = check_launch(os.environ), list[Finding]()
    if not launch_failures:
        try:
            return check_all_ranks(config, adapted, findings, started, as_json)
        except RuntimeError as error:
            if type(error) not in _EXPECTED:
                raise
            if rank != "0":
                print(f"failed{label}: {error}", file=sys.stderr)
                return FAILED
            launch_failures = rank_lost(str(error))
    findings = (findings or check_single_process(config) + adapted) + launch_failures
    print_findings(findings, time.perf_counter() - started, as_json)
    return FAILED


def adapted_config(arguments: Sequence[str]) -> tuple[Config, list[Finding]]:
    """The configuration as the trainer adapts it to the dataset and the node, and a finding for each change."""
    config, notes = parse_config_with_notes(arguments)
    try:
        manifest = read_manifest(Path(config.data.shards))
    except DataError:  # check_shards reports it
        pass
    else:
        config, data_notes = adapt_to_manifest(config, manifest)
        notes += data_notes
    config, process_notes = adapt_to_process(config)
    return config, [ok("options", note) for note in (*notes, *process_notes)]


def rank_lost(reason: str) -> list[Finding]:
    """The finding for ranks that did not start, died or hung."""
    fix = "start exactly WORLD_SIZE processes; check their logs, MASTER_ADDR and the network"
    return [fail("ranks", reason, fix)]


def check_single_process(config: Config) -> list[Finding]:
    """The checks that one process can do without the others."""
    local_rank, processes = (_number(name, default) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    world_size = _number("WORLD_SIZE", 1)
    return [
        *check_node(config, processes),
        *check_device(config, local_rank),
        *check_node_requirements(config, world_size, processes, local_rank),
        *check_run_requirements(config),
        *check_run_directory(config),
    ]


def _number(name: str, default: int) -> int:
    """A positive environment variable."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default


def check_all_ranks(
    config: Config, adapted: list[Finding], findings: list[Finding], started: float, as_json: bool
) -> int:
    """Runs the checks of this rank, exchanges the findings and prints them on rank zero; returns the exit code.

    Args:
        adapted: options that were adapted.
        findings: extended in place, so that the findings so far are known even if this raises.
    """
    options = replace(config.distributed, timeout=min(TIMEOUT, config.distributed.timeout))
    # gloo needs no GPU: a rank without its GPU can report that, and no other rank waits for it.
    with join_world("cpu", options, PreemptionNotice()) as world:
        # The timeout of a run, as verifying SHA-256 may take as long.
        patient_world = world.with_timeout(timedelta(seconds=config.distributed.timeout))
        if world.is_main and world.heartbeat is not None:

            def print_before_exit(reason: str) -> None:
                print_findings(findings + rank_lost(reason), time.perf_counter() - started, as_json)

            world.heartbeat.before_exit = print_before_exit
        processes = world.gather(process_info(config, world.rank))
        own = processes[world.rank]
        on_node = [process for process in processes if process.host == own.host]
        device = check_device(config, own.local_rank)
        of_node = device if reports_device(own, processes) else []
        if own == on_node[0]:
            of_node = check_node(config, len(on_node)) + of_node
            of_node += check_node_requirements(config, world.size, len(on_node), own.local_rank) + adapted
        of_run = check_run_requirements(config) + check_run_directory(config) if world.is_main else []
        findings += of_node + of_run
        findings_by_host = patient_world.gather((own.host, of_node))
        findings[:] = merge(findings_by_host) + of_run
        placement = check_placement(processes)
        on_gpu = not any_failed(placement) and all(process.device == "cuda" for process in processes)
        parameters = world.broadcast_object(_count_gradients(config))
        all_reduce = check_all_reduce(world, parameters, on_gpu, timedelta(seconds=options.timeout))
        findings += placement + all_reduce
        if world.is_main:
            print_findings(findings, time.perf_counter() - started, as_json)
        # No rank exits before rank zero has printed: torchrun stops the others when one exits with an error.
        return world.broadcast_object(FAILED if any_failed(findings) else DONE)


def _count_gradients(config: Config) -> int:
    with torch.device("meta"):
        return count_parameters(build_untrained_model(config, count_classes(config)), trainable_only=True)
