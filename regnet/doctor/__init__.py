"""Checks the environment and a configuration before a run: python -m regnet.doctor."""
