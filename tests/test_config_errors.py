"""An invalid configuration is rejected with one line that names the option, the value and the remedy."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_config import OPTIONS, SECTIONS, parse_text
from thoroughness import examples

from regnet.config.aliases import ALIASES
from regnet.config.parser import option_names, parse_config
from regnet.config.schema import Config
from regnet.errors import UsageError


def rejection(text=None, flags=()):
    """The message of the UsageError; always one line."""
    with pytest.raises(UsageError) as caught:
        parse_config(flags) if text is None else parse_text(text, *flags)
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


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
    message = rejection(text)
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
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_an_unknown_flag_is_named_with_a_suggestion(flag, nearest, joined):
    message = rejection(flags=[f"{flag}=3"] if joined else [flag, "3"])
    assert flag in message
    assert re.search(rf"did you mean {nearest}\b", message)


@pytest.mark.parametrize("text", ["zzzzzz: 1", "model: {zzzzzz: 1}", "zzzzzz: {a: {b: 1}}"])
def test_an_unknown_key_without_a_similar_option_gets_no_suggestion(text):
    message = rejection(text)
    assert "zzzzzz" in message
    assert "did you mean" not in message


INVALID = [
    ("name", "[1]"),
    ("name", "a/b"),
    ("name", "''"),
    ("seed", "-1"),
    ("seed", "x"),
    ("seed", "1.5"),
    ("seed", "18446744073709551616"),
    ("resume", "maybe"),
    ("model.variant", "bogus"),
    ("model.depth", "0"),
    ("model.depth", "2.5"),
    ("model.depth", "true"),
    ("model.w_0", "12"),
    ("model.w_a", ".nan"),
    ("model.w_a", "1.0e+308"),
    ("model.w_m", "1"),
    ("model.bottleneck_ratio", "0"),
    ("model.group_width", "24"),
    ("data.shards", "[3]"),
    ("data.resolution", "7"),
    ("data.resolution", "0"),
    ("data.verify", "bogus"),
    ("data.loader_timeout", "0"),
    ("data.loader_timeout", ".inf"),
    ("data.loader_timeout", "1.0e+300"),
    ("data.resolution", "100000"),
    ("data.prefetch_batches", "100000000000"),
    ("augment.cutout_size", "100000000000000000000"),
    ("augment.crop_padding", "1000000000"),
    ("train.batch_size", "1000000000000000000000"),
    ("tracking.wandb_timeout", "1.0e+300"),
    ("augment.crop_padding", "-1"),
    ("augment.flip", "maybe"),
    ("train.epochs", "0"),
    ("train.epochs", "x"),
    ("train.epochs", "[1]"),
    ("train.epochs", "{a: 1}"),
    ("train.grad_accum_steps", "501"),
    ("train.device", "bogus"),
    ("optim.lr", "0"),
    ("optim.lr", ".nan"),
    ("optim.lr", ".inf"),
    ("optim.lr", "1" + 400 * "0"),
    ("optim.momentum", "1"),
    ("optim.weight_decay", "-0.1"),
    ("optim.weight_decay", ".inf"),
    ("schedule.name", "linear"),
    ("schedule.start_lr", "0.01"),
    ("schedule.min_lr", "0.01"),
    ("early_stopping.monitor", "bogus"),
    ("tracking.wandb", "bogus"),
    ("tracking.log_every", "0"),
    ("distributed.timeout", "-1"),
    ("distributed.timeout", ".inf"),
    ("distributed.heartbeat_timeout", "1.0e+300"),
]


def nested(name, value):
    *sections, leaf = name.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{leaf}: {value}" + "}" * len(sections)


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_an_invalid_value_in_a_file_is_rejected_with_the_option(name, value):
    message = rejection(nested(name, value))
    assert name in message
    assert "did you mean" not in message


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value in INVALID if value not in ("[3]", "[1]", "''")]
)
def test_an_invalid_value_of_a_flag_is_rejected_with_the_option(name, value):
    assert name in rejection(flags=[f"--{name}={value}"])


@pytest.mark.parametrize(
    "name", ["name", "seed", "resume", "model.variant", "model.w_a", "data.drop_last", "optim.lr", "optim.momentum"]
)
def test_null_is_rejected_with_the_option(name):
    assert f"{name} has no value" in rejection(nested(name, "null"))


@pytest.mark.parametrize(
    ("section", "value"),
    [(section, "3") for section in SECTIONS] + [("model", value) for value in ("null", "true", "[1]", "[]", "nope")],
)
def test_a_value_instead_of_a_section_is_rejected(section, value):
    assert f"{section} is a section of options" in rejection(f"{section}: {value}")


@pytest.mark.parametrize("name", ["__path__", "__orig__", "__default_config__", "model: {__path__", "help", "config"])
def test_flags_that_are_not_options_are_rejected_in_files(name):
    assert name.split()[-1].strip("{") in rejection(f"{name}: 1" + "}" * name.count("{"))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--data.initial_resolution=57"], "data.initial_resolution"),
        (["--data.initial_resolution=7"], "data.initial_resolution"),
        (["--train.epochs=6"], "data.progressive_resizing_epochs"),
    ],
)
def test_progressive_resizing_must_start_small_enough_for_the_data_and_end_in_time(flags, named):
    assert named in rejection(flags=["--data.progressive_resizing_epochs=6", *flags])
    assert parse_config(["--data.progressive_resizing_epochs=0", *flags])


def test_a_missing_file_is_named(tmp_path):
    for missing in (tmp_path / "none.yaml", tmp_path):
        assert str(missing) in rejection(flags=["--config", str(missing)])


@pytest.mark.parametrize(
    "text", ["", "null", "[1, 2]", "- seed: 1", "3", "just words", "a: [1", "\t", "\0", b"\xff\xfe\xfa"]
)
def test_a_file_without_a_mapping_of_options_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "broken.yaml" in rejection(flags=["--config", str(path)])


def test_a_message_about_a_long_file_is_short():
    assert len(rejection("- " + "x" * 100_000)) < 1000


@pytest.mark.parametrize(
    "flags", [["stray"], ["--seed"], ["--config"], ["--seed="], ["--train", "3"], ["-n", "3"], ["--"]]
)
def test_incomplete_or_stray_arguments_are_rejected(flags):
    assert flags[0].rstrip("=").removeprefix("--") in rejection(flags=flags)


@pytest.mark.parametrize("text", ['"a\\0b"', '"a\\nb"'])
def test_a_character_that_no_file_name_may_contain_is_rejected(text):
    assert "runs_dir must not contain control characters" in rejection(f"runs_dir: {text}")
    assert "data.shards must not contain control characters" in rejection(f"data: {{shards: {text}}}")


def test_an_excessive_depth_is_rejected_at_once():
    assert "model.depth" in rejection("model: {depth: 1000000000}")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10_000, 10_000),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(["1e5", "null", "baseline", "paper", ".", "--seed", "${x}", "%", "a.b", "1e999"]),
)
names = st.one_of(
    st.sampled_from([part for name in option_names() for part in (name, name.rpartition(".")[2])]),
    st.sampled_from(["config", "help", "class_path", "init_args", "__path__", "", "depht", "a b"]),
    scalars,
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
real_options = st.dictionaries(st.sampled_from(option_names()), documents, min_size=1, max_size=3)
real_sections = st.sampled_from(SECTIONS).flatmap(
    lambda section: st.dictionaries(
        st.sampled_from([name.partition(".")[2] for name in option_names() if name.startswith(section + ".")]),
        documents,
        min_size=1,
        max_size=2,
    ).map(lambda options: {section: options})
)


def parses_or_is_rejected(text):
    try:
        config = parse_text(text)
    except UsageError as rejected:
        message = str(rejected)
    else:
        assert isinstance(config, Config)
        return
    assert message.strip()
    assert "\n" not in message


@given(st.one_of(documents, real_options, real_sections))
@examples(150)
def test_any_document_parses_or_is_rejected_in_one_line(document):
    parses_or_is_rejected(yaml.safe_dump(document, allow_unicode=True))


@given(st.text(st.sampled_from("seedmodl:{}[]-,&*!|>'\"#%@? \n\t1.~"), max_size=20))
@examples(50)
def test_any_text_parses_or_is_rejected_in_one_line(text):
    parses_or_is_rejected(text)


@given(
    st.sampled_from([name for name in OPTIONS if name != "model.depth"]),
    st.sampled_from([2**64, 10**400, -(10**400), 1e300, 1e-320]),
)
@examples(60)
def test_enormous_and_tiny_numbers_parse_or_are_rejected_in_one_line(name, value):
    parses_or_is_rejected(nested(name, value))


SCHEDULES = "one of cosine, onecycle, baseline"
NAME = "a letter or digit and contain only letters, digits, '.', '_' and '-'"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--train.epochs=three", "train.epochs must be a positive integer, got 'three'"),
        ("--train.epochs=0", "train.epochs must be a positive integer, got 0"),
        ("--train.epochs=2.5", "train.epochs must be a positive integer, got 2.5"),
        ("--train.epochs=", "train.epochs must be a positive integer, got ''"),
        ("--train.epochs=3000000000", "train.epochs must be at most 2147483647, got 3000000000"),
        ("--model.depth=deep", "model.depth must be an integer, got 'deep'"),
        ("--optim.lr=fast", "optim.lr must be a positive number, got 'fast'"),
        ("--optim.lr=nan", "optim.lr must be a positive number, got nan"),
        ("--optim.lr=inf", "optim.lr must be at most 1000000, got inf"),
        ("--optim.momentum=1", "optim.momentum must be a number in [0, 1), got 1"),
        ("--augment.cutmix_prob=1.1", "augment.cutmix_prob must be a number in [0, 1], got 1.1"),
        ("--data.workers=0", "data.workers must be an integer from 1 to 1000, got 0"),
        ("--augment.flip=maybe", "augment.flip must be true or false, got 'maybe'"),
        ("--schedule.name=cosin", f"schedule.name must be {SCHEDULES}, got 'cosin' (did you mean cosine?)"),
        ("--model.variant=papper", "model.variant must be one of baseline, paper, got 'papper' (did you mean paper?)"),
        ("--schedule.name=reference", f"schedule.name must be {SCHEDULES}, got 'reference' (did you mean baseline?)"),
        ("--train.precision=int8", "train.precision must be one of fp32, bf16, fp16, got 'int8'"),
        ("--optim.learning_rate=1", "unknown option --optim.learning_rate (did you mean optim.lr?)"),
        ("--train.accumulate=2", "unknown option --train.accumulate (did you mean train.grad_accum_steps?)"),
        ("--batch-size=2", "unknown option --batch-size (did you mean train.batch_size?)"),
        ("--optim.wd=2", "unknown option --optim.wd (did you mean optim.weight_decay?)"),
        ("--seed", "--seed needs a value: --seed VALUE"),
        ("--train.epochs= 5", "train.epochs must be a positive integer, got ' 5'"),
        ("--train.epochs=１２", "train.epochs must be a positive integer, got '１２'"),
        ("--optim.lr=0.1 ", "optim.lr must be a positive number, got '0.1 '"),
        ("--optim.lr=０.１", "optim.lr must be a positive number, got '０.１'"),
        ("--name=a/b", f"name must start with {NAME}, got 'a/b'"),
        (f"--name={'a' * 300}", "name must have at most 255 characters, got 300: it names a directory"),
        ("--runs_dir=", "runs_dir must not be empty (the current directory is .)"),
        ("--data.shards=", "data.shards must not be empty (the current directory is .)"),
        ("--config=", "--config: the path is empty (the current directory is .)"),
        ("--runs_dir=\udce9", "runs_dir must be text that the locale can encode, such as UTF-8, got '\\udce9'"),
        ("--optim.lr=0.000001", "schedule.start_lr (1e-05) must not exceed optim.lr (1e-06), the peak learning rate"),
        ("--train.grad_accum_steps=501", "train.grad_accum_steps (501) must not exceed train.batch_size (500)"),
        ("train", "unexpected argument 'train': options are given as --section.option VALUE"),
    ],
)
def test_messages_name_the_option_what_is_valid_and_the_value(flag, message):
    assert rejection(flags=[flag]) == message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data.progressive_resizing_epochs=40"],
            "data.progressive_resizing_epochs (40) must be smaller than train.epochs (40): the last epochs train at "
            "data.resolution",
        ),
        (
            ["--data.progressive_resizing_epochs=4", "--data.initial_resolution=57"],
            "data.initial_resolution (57) must not exceed data.resolution (56)",
        ),
        (
            ["--augment.mixup_prob=0.7", "--augment.cutmix_prob=0.5"],
            "augment.mixup_prob (0.7) and augment.cutmix_prob (0.5) must add up to at most 1: a sample gets either "
            "Mixup or CutMix",
        ),
        (
            ["--augment.rrc_min_scale=0.25", "--data.cache=device"],
            "data.cache device keeps whole images and cannot be combined with augment.rrc_min_scale (0.25): set "
            "data.cache to auto or none",
        ),
        (
            ["--model.weights=x.pt", "--train.init_std=0.1"],
            "train.init_std (0.1) must be 0 with model.weights, which replace the initialisation",
        ),
        (
            ["--model.weights=x.pt", "--train.zero_init_residual"],
            "train.zero_init_residual must be false with model.weights, which replace the initialisation",
        ),
        (
            ["--train.freeze_backbone", "--train.drop_path=0.1"],
            "train.drop_path (0.1) must be 0 with train.freeze_backbone: frozen blocks are never skipped",
        ),
    ],
)
def test_messages_about_several_options_name_their_values_and_the_remedy(flags, message):
    assert rejection(flags=flags) == message


def test_a_message_about_a_file_starts_with_its_path(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("train: {epochs: three}")
    assert rejection(flags=["--config", str(path)]) == f"{path}: train.epochs must be a positive integer, got 'three'"
    path.write_text("name: [7]")
    assert rejection(flags=["--config", str(path)]) == f"{path}: name must be a string, got [7]"
    path.write_text("train: {epochs: [1, 2]}")
    assert rejection(flags=["--config", str(path)]) == f"{path}: train.epochs must be a positive integer, got [1, 2]"
    path.write_text("optimizer: {lr: 1}")
    assert rejection(flags=["--config", str(path)]) == f"{path}: unknown option optimizer.lr (did you mean optim.lr?)"


def test_every_alias_suggests_an_existing_option():
    last_parts = {name.rpartition(".")[2] for name in OPTIONS}
    assert set(ALIASES.values()) <= set(OPTIONS)
    assert not set(ALIASES) & last_parts, "these are options"
    for alias, option in ALIASES.items():
        assert rejection(flags=[f"--{alias}=1"]) == f"unknown option --{alias} (did you mean {option}?)"


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
    assert rejection(nested(name, 1)).endswith(f"unknown option {name} (did you mean {ALIASES[old]}?)")


def test_renamed_choices_are_suggested():
    assert rejection(flags=["--early_stopping.monitor=val_accuracy"]).endswith("(did you mean val_top1?)")
    assert rejection(flags=["--train.precision=float16"]).endswith("(did you mean fp16?)")
