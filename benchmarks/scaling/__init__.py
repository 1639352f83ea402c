"""Scaling over processes, measured and predicted: see `python -m benchmarks.scaling --help`."""
