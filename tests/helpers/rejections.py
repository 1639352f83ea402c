"""The messages of rejected configurations, and single options written as YAML."""

import pytest
from configurations import parse_text

from regnet.config.parser import parse_config
from regnet.errors import UsageError


def rejection_message(text=None, flags=()):
    """The message of the UsageError; always one line."""
    with pytest.raises(UsageError) as caught:
        parse_config(flags) if text is None else parse_text(text, *flags)
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


def option_as_yaml(name, value):
    """A file that sets one option, in its section."""
    *sections, leaf = name.split(".")
    return "".join(f"{section}: {{" for section in sections) + f"{leaf}: {value}" + "}" * len(sections)
