"""A command that several processes run together ends with a status and a line that names the rank, not a traceback."""

import os
import sys
from collections.abc import Callable

from regnet.distributed.heartbeat import PeerLost
from regnet.distributed.rendezvous import Preempted
from regnet.distributed.world import OtherRankFailed
from regnet.errors import Diverged, UsageError
from regnet.exit_codes import FAILED, USAGE, preempted


def status_of(work: Callable[[], int], wrong: type[Exception], broken: type[Exception]) -> int:
    """The exit status of this process.

    Args:
        work: the command.
        wrong, broken: what else ends it, beside regnet's own errors: wrong input, and a failure under way.
    """
    rank = os.environ.get("RANK", "0")
    try:
        return work()
    except (UsageError, wrong) as error:
        print(f"error (rank {rank}): {error}", file=sys.stderr)
        return USAGE
    except OtherRankFailed as other:
        return other.exit_status
    except Preempted as left:
        print(f"{left} (rank {rank})", flush=True)
        return preempted()
    except (Diverged, PeerLost, OSError, broken) as error:
        print(f"failed (rank {rank}): {error}", file=sys.stderr)
        return FAILED
