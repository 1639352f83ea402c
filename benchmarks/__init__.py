"""Programs that measure this project: each prints what it measured, on what, and how far the rounds spread."""
