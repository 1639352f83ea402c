"""What every command shares: exit codes, errors, standard streams and paths.

Uses the standard library only. data/ and regnet/ import it; it imports neither.
"""
