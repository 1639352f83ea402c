"""RegNet networks and their training. Only the commands and data_adapter.py import data/."""
