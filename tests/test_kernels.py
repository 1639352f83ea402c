"""Kernels a step: operations counted on the CPU dispatcher, by part."""

import pytest
import torch
from processes import ROOT

from benchmarks.step.kernels import KERNEL_PARTS, KernelCounter, kernels_per_step
from data.manifest import read_manifest
from regnet.config.parser import parse_config


def kernels_of(shards, config, *flags):
    options = ("--config", str(ROOT / "configs" / config), "--data.shards", str(shards), "--data.resolution", "32")
    return kernels_per_step(parse_config([*options, *flags]), read_manifest(shards))


def test_views_count_as_none_and_operations_on_lists_as_one():
    tensors = list(torch.ones(3, 4))
    counter = KernelCounter()
    with counter, counter.part("part"):
        torch._foreach_add_([tensor.view(2, 2) for tensor in tensors], 1)
        tensors[0] + tensors[1].unsqueeze(0)
    assert counter.kernels == {"part": 2}


def test_operations_count_in_the_innermost_part():
    a, counter = torch.ones(2), KernelCounter()
    with counter:
        a + a
        with counter.part("outer"):
            a + a
            counter.counted("inner", a.add)(a)
            a + a
        a + a
    assert counter.kernels == {"outer": 2, "inner": 1}


def test_kernels_of_the_backward_pass_are_counted():
    weight, counter = torch.ones(2, requires_grad=True), KernelCounter()
    loss = weight.exp().sum()
    with counter:
        counter.counted("backward", loss.backward)()
    assert counter.kernels["backward"] >= 2


def test_every_part_of_a_step_is_counted_and_the_total_is_their_sum(shards):
    kernels = kernels_of(shards, "debug.yaml")
    assert list(kernels) == [*KERNEL_PARTS, "total"]
    assert all(number > 0 for number in kernels.values())
    assert kernels["total"] == sum(kernels[part] for part in KERNEL_PARTS)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--optim.ema_decay", "0.9"), "update"),
        (("--optim.clip_norm", "1"), "update"),
        (("--augment.cutmix_prob", "0.5"), "augment"),
        (("--train.grad_accum_steps", "2"), "backward"),
    ],
)
def test_an_option_adds_its_operations_to_its_part(shards, flags, part):
    assert kernels_of(shards, "debug.yaml", *flags)[part] > kernels_of(shards, "debug.yaml")[part]


def test_counting_ignores_what_the_device_decides(shards):
    """Batch size, compilation, CUDA graphs and the cache change nothing."""
    flags = ("--train.batch_size", "100", "--train.compile", "true", "--data.cache", "device")
    assert kernels_of(shards, "debug.yaml", *flags) == kernels_of(shards, "debug.yaml")


def test_an_update_of_the_recipes_takes_at_most_100_operations(shards):
    """Including Muon's momentum and orthogonalisation of 30 matrices and 373 groups, of ten shapes."""
    assert kernels_of(shards, "fast.yaml")["update"] <= 100
