"""An unknown key or flag is rejected with the option that was meant."""

import re

import pytest
from configurations import OPTIONS
from rejections import option_as_yaml, rejection_message

from regnet.config.aliases import ALIASES


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("sede: 1", "sede", "seed"),
        ("nmae: x", "nmae", "name"),
        ("trian: {epochs: 3}", "trian", "train"),
        ("early_stoping: {patience: 3}", "early_stoping", "early_stopping"),
        ("model: {depht: 3}", "depht", "model.depth"),
        ("augment: {flips: true}", "flips", "augment.flip"),
        ("optim: {momentun: 0.5}", "momentun", "optim.momentum"),
        ("train: {batchsize: 3}", "batchsize", "train.batch_size"),
        ("train.batchsize: 3", "batchsize", "train.batch_size"),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(text, unknown, nearest):
    message = rejection_message(text)
    assert unknown in message
    assert re.search(rf"did you mean {nearest}\b", message)


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--sede", "seed"),
        ("--model.depht", "model.depth"),
        ("--modle.depth", "model.depth"),
        ("--train.batchsize", "train.batch_size"),
        ("--epochs", "train.epochs"),
        ("--epcohs", "train.epochs"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_an_unknown_flag_is_named_with_a_suggestion(flag, nearest, joined):
    message = rejection_message(flags=[f"{flag}=3"] if joined else [flag, "3"])
    assert flag in message
    assert re.search(rf"did you mean {nearest}\b", message)


@pytest.mark.parametrize("text", ["zzzzzz: 1", "model: {zzzzzz: 1}", "zzzzzz: {a: {b: 1}}"])
def test_an_unknown_key_without_a_similar_option_gets_no_suggestion(text):
    message = rejection_message(text)
    assert "zzzzzz" in message
    assert "did you mean" not in message


@pytest.mark.parametrize("name", ["__path__", "__orig__", "__default_config__", "model: {__path__", "help", "config"])
def test_flags_that_are_not_options_are_rejected_in_files(name):
    assert name.split()[-1].strip("{") in rejection_message(f"{name}: 1" + "}" * name.count("{"))


def test_every_alias_suggests_an_existing_option():
    last_parts = {name.rpartition(".")[2] for name in OPTIONS}
    assert set(ALIASES.values()) <= set(OPTIONS)
    assert not set(ALIASES) & last_parts, "these are options"
    for alias, option in ALIASES.items():
        assert rejection_message(flags=[f"--{alias}=1"]) == f"unknown option --{alias} (did you mean {option}?)"


RENAMED = """
    model.form model.initial_width model.slope model.quantization data.stage data.first_resolution data.growing_epochs
    data.batches_ahead data.window data.keep_pages data.middle augment.smallest_cut augment.operations augment.magnitude
    augment.mixup augment.cutmix augment.cutout train.accumulate train.autotune train.freeze_trunk train.zero_init
    train.max_steps distill.share tracking.project tracking.group
"""


@pytest.mark.parametrize("name", RENAMED.split())
def test_an_earlier_name_of_an_option_suggests_the_new_one_of_the_same_section(name):
    section, _, old = name.partition(".")
    assert ALIASES[old].startswith(f"{section}.")
    assert rejection_message(option_as_yaml(name, 1)).endswith(f"unknown option {name} (did you mean {ALIASES[old]}?)")


def test_renamed_choices_are_suggested():
    assert rejection_message(flags=["--early_stopping.monitor=val_accuracy"]).endswith("(did you mean val_top1?)")
    assert rejection_message(flags=["--train.precision=float16"]).endswith("(did you mean fp16?)")
