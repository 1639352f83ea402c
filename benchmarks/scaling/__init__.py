"""How training scales over processes, measured and foretold: see `python -m benchmarks.scaling --help`."""
