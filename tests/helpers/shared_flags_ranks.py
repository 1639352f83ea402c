"""Exchanges flags on every rank with a scripted clock, and prints what each rank has seen: see test_shared_flags.py.

The argument is JSON: for each phase its number of steps, seconds per step by rank, and [rank, step] of each flag.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[2]))

from regnet.config.schema import DistributedConfig
from regnet.distributed import shared_flags
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.shared_flags import SharedFlags
from regnet.distributed.world import World, join_world


def run_phase(flags, world, clock, phase):
    """Steps at which a flag was seen, and at which flags were exchanged, both counted from 1."""
    seen, exchanged = [], []
    flags.restart()
    for step in range(1, phase["steps"] + 1):
        clock.now += phase["seconds"][world.rank]
        before = flags._work
        if flags.exchange([world.rank, step] in phase["set"]) == [True]:
            seen.append(step)
        if flags._work is not before:
            exchanged.append(step)
    return seen, exchanged


def main(world: World) -> None:
    clock = SimpleNamespace(now=0.0)
    shared_flags.time = SimpleNamespace(perf_counter=lambda: clock.now)
    flags = SharedFlags(world, 1)
    results = world.gather([run_phase(flags, world, clock, phase) for phase in json.loads(sys.argv[1])])
    flags.wait()
    if world.is_main:
        print(json.dumps(results))


if __name__ == "__main__":
    with join_world("cpu", DistributedConfig(), PreemptionNotice()) as world:
        main(world)
