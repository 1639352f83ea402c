"""Says what this machine is and what would stop a run here:

python -m regnet.doctor [--config FILE ... --section.option value ...] [--json]
torchrun --nproc_per_node=N -m regnet.doctor ...
"""

import json
import sys
import time
from dataclasses import asdict
from typing import NoReturn

from regnet.doctor.findings import Finding, stops


def uninstalled(error: Exception) -> Finding:
    step = "run `make install` in the repository, then `.venv/bin/python -m regnet.doctor`"
    return stops("installation", f"{sys.executable}: {error}", step)


def cli() -> NoReturn:
    """Runs the command and exits; reports an installation that cannot be imported."""
    began = time.perf_counter()
    try:
        from regnet.doctor.command import main
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        if (getattr(error, "name", None) or "").partition(".")[0] in ("regnet", "data"):
            raise
        found = uninstalled(error)
        if "--json" in sys.argv:
            print(json.dumps({"stops": True, "findings": [asdict(found)]}))
        else:
            print(f"{found.status}  {found.check}  {found.saw}\nnext: {found.next}")
        sys.exit(1)
    sys.exit(main(sys.argv[1:], began))


if __name__ == "__main__":
    cli()
