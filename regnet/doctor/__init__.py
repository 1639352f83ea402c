"""What this machine is, and what would stop a run here: python -m regnet.doctor"""
