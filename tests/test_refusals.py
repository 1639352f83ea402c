"""What no configuration may say is refused in one line, which names it."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import OPTIONS, SECTIONS, parse_text

from regnet.config.parser import option_names, parse_config
from regnet.config.schema import Config
from regnet.errors import UsageError


def refusal(text=None, flags=()):
    """What is told instead of a configuration; always one line."""
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
def test_unknown_key_is_named_with_the_nearest_option(text, unknown, nearest):
    message = refusal(text)
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
def test_unknown_flag_is_named_with_the_nearest_option(flag, nearest, joined):
    message = refusal(flags=[f"{flag}=3"] if joined else [flag, "3"])
    assert flag in message
    assert re.search(rf"did you mean {nearest}\b", message)


@pytest.mark.parametrize("text", ["zzzzzz: 1", "model: {zzzzzz: 1}", "zzzzzz: {a: {b: 1}}"])
def test_unknown_key_that_is_near_nothing_is_only_named(text):
    message = refusal(text)
    assert "zzzzzz" in message
    assert "did you mean" not in message


WRONG = [
    ("name", "[1]"),
    ("name", "3"),
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
    ("data.shards", "3"),
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


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_value_in_a_file_is_refused_by_the_name_of_its_option(name, value):
    message = refusal(nested(name, value))
    assert name in message
    assert "did you mean" not in message


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value in WRONG if value not in ("3", "[1]", "''")])
def test_wrong_value_of_a_flag_is_refused_by_the_name_of_its_option(name, value):
    assert name in refusal(flags=[f"--{name}={value}"])


@pytest.mark.parametrize(
    "name", ["name", "seed", "resume", "model.variant", "model.w_a", "data.drop_last", "optim.lr", "optim.momentum"]
)
def test_null_is_refused_by_the_name_of_the_option(name):
    assert name in refusal(nested(name, "null"))


@pytest.mark.parametrize(
    ("section", "value"),
    [(section, "3") for section in SECTIONS] + [("model", value) for value in ("null", "true", "[1]", "[]", "nope")],
)
def test_a_value_in_place_of_a_section_is_refused_by_its_name(section, value):
    message = refusal(f"{section}: {value}")
    assert section in message
    assert "functools" not in message


@pytest.mark.parametrize("name", ["__path__", "__orig__", "__default_config__", "model: {__path__", "help", "config"])
def test_names_that_the_parser_keeps_for_itself_are_refused(name):
    assert name.split()[-1].strip("{") in refusal(f"{name}: 1" + "}" * name.count("{"))


def test_warmup_must_leave_epochs_for_the_fall():
    flags = ["--schedule.name=cosine", "--schedule.warmup_epochs=5", "--train.epochs=5"]
    assert "schedule.warmup_epochs" in refusal(flags=flags)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--data.initial_resolution=57"], "data.initial_resolution"),
        (["--data.initial_resolution=7"], "data.initial_resolution"),
        (["--train.epochs=6"], "data.progressive_resizing_epochs"),
    ],
)
def test_images_must_grow_from_what_the_network_can_take_and_in_time(flags, named):
    assert named in refusal(flags=["--data.progressive_resizing_epochs=6", *flags])
    assert parse_config(["--data.progressive_resizing_epochs=0", *flags])


def test_missing_file_is_named(tmp_path):
    for missing in (tmp_path / "none.yaml", tmp_path):
        assert str(missing) in refusal(flags=["--config", str(missing)])


@pytest.mark.parametrize(
    "text", ["", "null", "[1, 2]", "- seed: 1", "3", "just words", "a: [1", "\t", "\0", b"\xff\xfe\xfa"]
)
def test_a_file_that_is_no_mapping_of_options_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "broken.yaml" in refusal(flags=["--config", str(path)])


def test_a_message_about_a_long_file_is_short():
    assert len(refusal("- " + "x" * 100_000)) < 1000


@pytest.mark.parametrize("flags", [["stray"], ["--seed"], ["--config"], ["--seed="], ["--train", "3"]])
def test_incomplete_or_stray_arguments_are_refused(flags):
    assert flags[0].strip("-=") in refusal(flags=flags)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800x"', '"a\\nb"'])
def test_a_text_that_can_be_in_no_file_name_is_refused(text):
    assert "runs_dir" in refusal(f"runs_dir: {text}")


def test_a_network_deeper_than_any_machine_holds_is_refused_at_once():
    assert "model.depth" in refusal("model: {depth: 1000000000}")


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


def parses_or_is_refused(text):
    try:
        config = parse_text(text)
    except UsageError as refused:
        message = str(refused)
    else:
        assert isinstance(config, Config)
        return
    assert message.strip()
    assert "\n" not in message


@given(st.one_of(documents, real_options, real_sections))
@settings(deadline=None, max_examples=150)
def test_any_document_parses_or_is_refused_in_one_line(document):
    parses_or_is_refused(yaml.safe_dump(document, allow_unicode=True))


@given(st.text(st.sampled_from("seedmodl:{}[]-,&*!|>'\"#%@? \n\t1.~"), max_size=20))
@settings(deadline=None, max_examples=50)
def test_any_text_parses_or_is_refused_in_one_line(text):
    parses_or_is_refused(text)


@given(
    st.sampled_from([name for name in OPTIONS if name != "model.depth"]),
    st.sampled_from([2**64, 10**400, -(10**400), 1e300, 1e-320]),
)
@settings(deadline=None, max_examples=60)
def test_enormous_and_tiny_numbers_parse_or_are_refused_in_one_line(name, value):
    parses_or_is_refused(nested(name, value))


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--schedule.name=cosin", "'cosin' is none of cosine, onecycle, baseline (did you mean cosine?)"),
        ("--model.variant=papper", "'papper' is none of baseline, paper (did you mean paper?)"),
        ("--train.precision=half", "'half' is none of fp32, bf16, fp16"),
    ],
)
def test_a_choice_that_is_none_is_told_with_the_others(flag, told):
    with pytest.raises(UsageError) as caught:
        parse_config([flag])
    assert str(caught.value).endswith(told)
