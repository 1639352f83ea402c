"""Time profile of a training step: see `python -m benchmarks.step --help`."""
