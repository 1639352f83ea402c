"""What every command shares: exit codes, errors, standard streams, paths and durable directories.

Uses the standard library only. data/ and regnet/ import it; it imports neither.
"""
