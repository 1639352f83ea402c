"""Runs of a W&B sweep, which `wandb agent` starts one after another with the same command."""

import os
from dataclasses import replace

from regnet.config.schema import Config


def name_sweep_run(config: Config) -> tuple[Config, list[str]]:
    """Gives a run of a W&B sweep its own name, `name-ID`; the result and a line about it.

    A preempted run that the agent starts again has its old id and therefore resumes.
    """
    sweep, run_id = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not (sweep and run_id) or config.name.endswith(f"-{run_id}"):
        return config, []
    name = f"{config.name}-{run_id}"
    return replace(config, name=name), [f"name is {name}: this is run {run_id} of the W&B sweep {sweep}"]
