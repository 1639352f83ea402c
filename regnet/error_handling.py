"""Turns the errors of a command into one line of text and an exit code; with several processes it names the rank."""

import os
import sys
from collections.abc import Callable

from regnet.distributed.heartbeat import PeerLost
from regnet.distributed.preemption import Preempted
from regnet.distributed.world import OtherRankFailed
from regnet.errors import Diverged, UsageError
from regnet.exit_codes import FAILED, USAGE, preempted_exit_code


def exit_code_of(command: Callable[[], int], usage_errors: type[Exception], failures: type[Exception]) -> int:
    """Runs a command and returns the exit code of this process.

    Args:
        command: returns an exit code, or raises.
        usage_errors: further errors that mean wrong input, besides UsageError.
        failures: further errors that mean failure, besides regnet's own and OSError.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    rank = f" (rank {os.environ.get('RANK', '0')})" if several else ""
    try:
        return command()
    except (UsageError, usage_errors) as error:
        print(f"error{rank}: {error}", file=sys.stderr)
        return USAGE
    except OtherRankFailed as other:
        return other.exit_code
    except Preempted as preempted:
        print(f"{preempted}{rank}", flush=True)
        return preempted_exit_code()
    except (Diverged, PeerLost, OSError, failures) as error:
        print(f"failed{rank}: {error}", file=sys.stderr)
        return FAILED
