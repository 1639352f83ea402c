"""The command regnet-train: train_ddp.py, run as the main program."""

import runpy


def main() -> None:
    # Run rather than imported: as the main program it installs its signal handlers before it imports torch.
    runpy.run_module("train_ddp", run_name="__main__", alter_sys=True)
