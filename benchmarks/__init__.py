"""Benchmarks. Each prints what was measured, on which hardware, and the spread over the rounds."""
