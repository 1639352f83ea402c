"""Checks the environment and a configuration before a run.

python -m regnet.doctor [--config FILE ...] [--section.option VALUE ...] [--json]
torchrun --nproc_per_node=N -m regnet.doctor ...
"""

import json
import sys
import time
from dataclasses import asdict

from commandline.command import run_command
from commandline.environment import VariableError, check_libraries
from commandline.exit_codes import FAILED, exit_process
from regnet.doctor.findings import Finding, fail


def not_installed(error: Exception) -> Finding:
    fix = "run `make install` in the repository, then `.venv/bin/python -m regnet.doctor`"
    return fail("installation", f"{sys.executable}: {error}", fix)


def run(arguments: list[str]) -> int:
    """Runs the checks; reports an installation that cannot be imported, or variables with which it could not work."""
    started = time.perf_counter()
    try:
        check_libraries()
        from regnet.doctor.command import main as run_checks
    except VariableError as error:
        finding = fail("environment", error.problem, error.cure)
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        if (getattr(error, "name", None) or "").partition(".")[0] in ("regnet", "data"):
            raise
        finding = not_installed(error)
    else:
        return run_checks(arguments, started)
    if "--json" in arguments:
        print(json.dumps({"failed": True, "findings": [asdict(finding)]}))
    else:
        print(f"{finding.severity}  {finding.check}  {finding.message}\nfix: {finding.fix}")
    return FAILED


def main(argv: list[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    exit_process(main())
