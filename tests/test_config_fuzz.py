"""Any text, document or number either parses or is rejected in one line."""

import yaml
from configurations import OPTIONS, SECTIONS, parse_text
from hypothesis import given
from hypothesis import strategies as st
from rejections import option_as_yaml
from thoroughness import examples

from regnet.config.parser import option_names
from regnet.config.schema import Config
from regnet.errors import UsageError

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
    parses_or_is_rejected(option_as_yaml(name, value))
