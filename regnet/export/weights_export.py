"""Weights-only checkpoints: about half the size, enough to evaluate, export or fine-tune, but not to resume."""

from pathlib import Path

from regnet.checkpoint.load_model import weights_only_checkpoint


def export_weights(checkpoint: Path, path: Path) -> None:
    """Writes the weights that the run evaluates: the EMA weights, if it keeps any.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        OSError: the file cannot be written.
    """
    path.write_bytes(weights_only_checkpoint(checkpoint))
