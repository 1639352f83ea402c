"""Writes converted datasets: shards in several processes, and a manifest that makes them valid all at once."""
