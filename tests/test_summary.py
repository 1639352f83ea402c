"""python -m regnet.summary: operators, costs and weights."""

import csv
import io
import json

import pytest
import torch
from fork_server import ForkedCommand
from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT, run, trainer
from reference import needs_baseline_data, read_baseline_table
from thoroughness import examples
from torch.utils.flop_counter import FlopCounterMode

from regnet.checkpoint.file import load
from regnet.errors import UsageError
from regnet.models.complexity import profile_operators
from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model, count_parameters
from regnet.summary import histogram

BASELINE = ("--config", str(ROOT / "configs" / "baseline.yaml"))


def summary(*arguments):
    return run(ForkedCommand(["-m", "regnet.summary", *map(str, arguments)]))


@needs_baseline_data
def test_the_table_equals_the_original_programs_row_by_row():
    rows = list(csv.DictReader(io.StringIO(summary(*BASELINE, "--format", "csv").stdout)))
    assert [{name: row[name] for name in ("index", "operator", "output_shape", "parameters")} for row in rows] == (
        read_baseline_table("operators.csv")
    )


def test_costs_and_memory_of_the_baseline_network():
    found = json.loads(summary(*BASELINE, "--format", "json").stdout)
    assert found["parameters"] == 2_275_604
    assert round(found["multiply_adds"] / 1e6, 2) == 166.86
    assert found["megabytes"]["parameters"] == pytest.approx(4 * 2_275_604 / 2**20)
    assert found["megabytes"]["input"] == pytest.approx(4 * 3 * 56 * 56 / 2**20)
    printed = summary(*BASELINE).stdout
    assert "2,275,604" in printed
    assert "166,857,120" in printed
    assert max(len(line) for line in printed.splitlines()) <= 80


@given(
    variant=st.sampled_from(Variant),
    depth=st.integers(1, 6),
    w_0=st.sampled_from([8, 16, 24]),
    w_a=st.floats(0, 40),
    w_m=st.floats(1.5, 3),
    ratio=st.sampled_from([0.5, 1, 2]),
    se_ratio=st.sampled_from([0, 0.25, 1]),
    resolution=st.sampled_from([32, 33, 56]),
)
@examples(25)
def test_multiply_adds_equal_torchs_flop_counter(variant, depth, w_0, w_a, w_m, ratio, se_ratio, resolution):
    try:
        design = generate_design(variant, depth, w_0, w_a, w_m, ratio, 4, 8, se_ratio)
    except UsageError:
        return
    model = Model(design, classes=7).eval()
    if resolution < design.reduction:
        return
    found = profile_operators(model, resolution)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 3, resolution, resolution))
    assert 2 * sum(operator.multiply_adds for operator in found) == counter.get_total_flops()
    assert sum(operator.parameters for operator in found) == count_parameters(model)


def test_the_weights_of_a_checkpoint_are_its_ema_weights(shards, tmp_path):
    flags = ("--train.max_steps_per_epoch", "3", "--train.epochs", "1", "--schedule.warmup_epochs", "0")
    assert run(trainer(tmp_path, shards, *flags, "--optim.ema_decay", "0.5")).returncode == 0
    path = tmp_path / "tiny" / "checkpoints" / "best.pt"
    saved = load(path)
    printed = json.loads(summary("--checkpoint", path, "--format", "json", "--weights").stdout)
    weights = saved["ema"]["module.stem.conv_3x3.weight"]
    assert not torch.equal(weights, saved["model"]["stem.conv_3x3.weight"])
    found = printed["weights"]["stem.conv_3x3.weight"]
    assert found["shape"] == list(weights.shape)
    assert found["mean"] == pytest.approx(weights.mean().item(), abs=1e-7)
    assert found["std"] == pytest.approx(weights.std(correction=0).item(), abs=1e-7)
    assert (found["min"], found["max"]) == (weights.min().item(), weights.max().item())
    assert printed["epochs"] == 1
    assert "stem.conv_3x3.weight  8x3x3x3" in summary("--checkpoint", path, "--weights").stdout
    values = summary("--checkpoint", path, "--values", "head.f_out.bias").stdout
    assert len(values.replace(",", " ").replace("]", " ").split("[")[1].split(")")[0].split()) >= 100


def test_a_histogram_shows_how_many_values_are_in_each_bin():
    assert histogram(torch.tensor([0.0, 0.0, 0.0, 1.0]), bins=4) == "█  ▃"
    assert histogram(torch.full((5,), 2.0)) == "█"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--checkpoint", "no/such.pt"), "no/such.pt"),
        (("--model.depht", "3"), "did you mean model.depth?"),
        (("--checkpoint", "some.pt", "--seed", "3"), "--seed cannot be combined with --checkpoint"),
        ((*BASELINE, "--values", "stem.conv.weight"), "(did you mean stem.conv_3x3.weight?)"),
    ],
)
def test_usage_errors_are_one_line(arguments, words):
    done = summary(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
