"""The command: looks at everything, on all ranks, and lets rank zero tell."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch

from data.errors import DataError
from data.manifest import read_manifest
from regnet.config.parser import parse_config
from regnet.config.schema import Config
from regnet.data_adapter import adapt_to_data
from regnet.distributed.heartbeat import COLLECTIVE_ERRORS, PeerLost
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import join_world
from regnet.doctor.communication import check_all_reduce, check_launch, check_seats, own_seat, speaks_for_its_like
from regnet.doctor.environment import check_device, check_machine
from regnet.doctor.findings import Finding, any_stops, merge, stops
from regnet.doctor.output import tell
from regnet.doctor.requirements import check_needs, count_classes, network
from regnet.doctor.run_directory import check_run
from regnet.errors import UsageError
from regnet.exit_codes import USAGE
from regnet.models.regnet import count_parameters

FINE, STOPS = 0, 1
PATIENCE = 60.0  # seconds for a rank to come, or to answer; less if distributed.timeout is
_EXPECTED = {PeerLost, *COLLECTIVE_ERRORS, torch.OutOfMemoryError, torch.AcceleratorError}
_HELP = """usage: python -m regnet.doctor [--config FILE ...] [--section.option value ...] [--json]

Says what this machine is and what would stop the run that these options describe; --json says it to machines. Also
under torchrun and srun, between all processes. Exit status: 0 nothing would stop it, 1 something would, 2 wrong usage.
The options are those of the trainer:
"""


def main(argv: Sequence[str], began: float) -> int:
    """Runs one process of the doctor; returns its exit status.

    Args:
        began: when it was started, by time.perf_counter().
    """
    rank = os.environ.get("RANK", "0")
    as_json = "--json" in argv
    if "--help" in argv or "-h" in argv:
        print(_HELP)
    try:
        config = adapted(parse_config([argument for argument in argv if argument != "--json"]))
    except UsageError as error:
        print(f"error (rank {rank}): {error}", file=sys.stderr)
        return USAGE
    wrong, findings = check_launch(os.environ), list[Finding]()
    if not wrong:
        try:
            return look_together(config, findings, began, as_json)
        except RuntimeError as error:
            if type(error) not in _EXPECTED:
                raise
            if rank != "0":
                print(f"failed (rank {rank}): {error}", file=sys.stderr)
                return STOPS
            wrong = apart(str(error))
    tell((findings or look_alone(config)) + wrong, time.perf_counter() - began, as_json)
    return STOPS


def adapted(config: Config) -> Config:
    """The configuration as the trainer adapts it to the dataset; unchanged without a readable manifest."""
    try:
        manifest = read_manifest(Path(config.data.shards))
    except DataError:  # which a check reports
        return config
    return adapt_to_data(config, manifest)[0]


def apart(why: str) -> list[Finding]:
    """That the processes did not come or stay together."""
    step = "start as many processes as WORLD_SIZE says; look at their logs, MASTER_ADDR and the network"
    return [stops("ranks", why, step)]


def look_alone(config: Config) -> list[Finding]:
    """What one process finds where it has no others."""
    local_rank, processes = (_number(name, default) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
    size = _number("WORLD_SIZE", 1)
    machine = check_machine(config, processes) + check_device(config, local_rank)
    return machine + check_needs(config, size, processes, local_rank) + check_run(config)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default


def look_together(config: Config, findings: list[Finding], began: float, as_json: bool) -> int:
    """Looks on every machine, and between them; returns the exit status.

    Args:
        findings: is given all that was found, also when this then raises.
    """
    options = replace(config.distributed, timeout=min(PATIENCE, config.distributed.timeout))
    # Over gloo, which needs no GPU: a machine that lacks its GPU is named then, and nobody waits for it.
    with join_world("cpu", options, PreemptionNotice()) as world:
        # As a run would be: digests may take as long.
        patient = world.with_timeout(timedelta(seconds=config.distributed.timeout))
        if world.is_main and world.heartbeat is not None:  # which ends this process if another keeps it waiting
            world.heartbeat.before_exit = lambda why: tell(findings + apart(why), time.perf_counter() - began, as_json)
        seats = world.gather(own_seat(config, world.rank))
        own = seats[world.rank]
        here = [seat for seat in seats if seat.host == own.host]
        device = check_device(config, own.local_rank)
        found = device if speaks_for_its_like(own, seats) else []
        if own == here[0]:
            found = check_machine(config, len(here)) + found
            found += check_needs(config, world.size, len(here), own.local_rank)
        of_run = check_run(config) if world.is_main else []
        findings += found + of_run
        of_hosts = patient.gather((own.host, found))
        findings[:] = merge(of_hosts) + of_run
        seated = check_seats(seats)
        on_gpu = not any_stops(seated) and all(seat.device == "cuda" for seat in seats)
        parameters = world.broadcast_object(_parameters(config))
        all_reduce = check_all_reduce(world, parameters, on_gpu, timedelta(seconds=options.timeout))
        findings += seated + all_reduce
        if world.is_main:
            tell(findings, time.perf_counter() - began, as_json)
        # Nobody leaves before all is told: torchrun ends the others when one has left with a status.
        return world.broadcast_object(STOPS if any_stops(findings) else FINE)


def _parameters(config: Config) -> int:
    with torch.device("meta"):
        return count_parameters(network(config, count_classes(config)), trainable_only=True)
