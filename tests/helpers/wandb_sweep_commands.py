"""`wandb sweep FILE`, then `wandb agent` for two runs of that sweep, in one process."""

import sys

from wandb import wandb_agent
from wandb.cli.cli import cli

wandb_agent.Agent.POLL_INTERVAL = 0.1  # 5 seconds otherwise
cli(["sweep", sys.argv[1]], standalone_mode=False)
cli(["agent", "someone/regnet/s1", "--count", "2"], standalone_mode=False)
