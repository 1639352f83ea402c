"""RegNetX networks and their training. Nothing here knows where samples come from."""
