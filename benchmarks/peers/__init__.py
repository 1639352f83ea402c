"""This trainer beside other ways to train the same network: see `python -m benchmarks.peers --help`."""
