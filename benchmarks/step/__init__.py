"""Where a step's time goes: see `python -m benchmarks.step --help`."""
