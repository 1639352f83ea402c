"""With any configuration, the trainer runs, or reports in one line why it cannot."""

import io
import tempfile
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from processes import TINY
from thoroughness import either

from train_ddp import main

HUGE = 2**31 - 1
EXTREMES = {
    "seed": [0, 2**63 - 1],
    "data.resolution": [1, 31, 33, 64],
    "data.drop_last": ["true"],
    "data.verify": ["always", "sizes"],
    "data.workers": [2, 1000],
    "data.prefetch_batches": [1, 50],
    "data.loader_timeout": [1e6],
    "augment.flip": ["false"],
    "augment.crop_padding": [0, 64],
    "augment.cutout_size": [1, 1024],
    "augment.randaugment_num_ops": [1, 14],
    "augment.randaugment_magnitude": [0, 30],
    "augment.mixup_prob": [0.5, 1],
    "augment.cutmix_prob": [0.5, 1],
    "train.batch_size": [1, 2, 999, 1000, HUGE],
    "train.grad_accum_steps": [2, HUGE],
    "train.precision": ["bf16", "fp16"],
    "data.initial_resolution": [1, 4096],
    "data.progressive_resizing_epochs": [1, HUGE],
    "train.channels_last": ["false"],
    "train.label_smoothing": [1e-9, 0.9999999],
    "train.init_std": [1e-9, 0.9999999],
    "train.zero_init_residual": ["true"],
    "train.drop_path": [1e-9, 0.9999999],
    "train.sync_batchnorm": ["true"],
    "train.deterministic": ["true"],
    "train.detect_anomaly": ["true"],
    "train.device": ["auto", "cuda"],
    "train.max_minutes": [1e-9, 1e6],
    "optim.name": ["adamw", "sgd"],
    "optim.lr": [1e-30, 1e6],
    "optim.momentum": [0, 0.9999999],
    "optim.beta2": [0, 0.9999999],
    "optim.weight_decay": [1e-30, 1e30],
    "optim.muon_weight_decay": [1e-30, 1e30],
    "optim.decay_norm_and_bias": ["true"],
    "optim.clip_norm": [1e-30, 1e30],
    "optim.ema_decay": [1e-9, 0.9999999],
    "schedule.name": ["onecycle", "baseline"],
    "schedule.warmup_epochs": [0, HUGE],
    "schedule.decay_epochs": [1, HUGE],
    "schedule.start_lr": [0, 1e6],
    "schedule.min_lr": [0, 1e6],
    "checkpoint.keep_last": [1, HUGE],
    "checkpoint.every_steps": [1, HUGE],
    "checkpoint.every_minutes": [1e-9, 1e6],
    "early_stopping.monitor": ["val_top1"],
    "early_stopping.patience": [1, HUGE],
    "tracking.log_every": [1, HUGE],
    "distributed.timeout": [1e-9, 1e6],
}
settings_lists = st.lists(
    st.sampled_from([(name, value) for name, values in EXTREMES.items() for value in values]),
    min_size=1,
    max_size=4,
    unique_by=lambda setting: setting[0],
)


@pytest.fixture(autouse=True)
def _restore_torch_settings():
    yield
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


@given(settings_lists)
@example([("optim.lr", 1e6), ("optim.name", "sgd")])
@example([("optim.lr", 1e6), ("schedule.start_lr", 1e6), ("optim.momentum", 0.9999999)])
@example([("train.batch_size", HUGE)])
@example([("data.workers", 1000)])
@settings(max_examples=either(quick=4, thorough=20), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_extreme_values_run_or_are_rejected_in_one_line(shards, chosen):
    error = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(error), redirect_stdout(io.StringIO()):
        base = [
            "--config",
            str(TINY),
            "--runs_dir",
            folder,
            "--data.shards",
            str(shards),
            "--train.max_steps_per_epoch",
            "1",
        ]
        status = main(base + [f"--{name}={value}" for name, value in chosen])
    message = error.getvalue()
    assert "\n" not in message.strip()
    if status == 1:
        assert "is not finite" in message or "the loss is" in message or "overflow" in message, "it diverged"
    else:
        assert status in (0, 2, 75)
        assert bool(message) == (status == 2)
