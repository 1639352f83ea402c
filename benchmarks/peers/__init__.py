"""Comparison with other trainers on the same model and data: see `python -m benchmarks.peers --help`."""
