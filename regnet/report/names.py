"""Names of classes and runs, which may contain any bytes, as a report can show them."""

import re
import unicodedata

from markupsafe import Markup, escape

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SEPARATOR = re.compile(r"([_\-/\\]|\.(?!\d))(?=[^_\-./\\])")  # not within 0.05


def printable(text: str) -> str:
    """The text with U+FFFD for bytes that are not UTF-8 (Python's lone surrogates) and for control characters."""
    return "".join(
        _REPLACEMENT if unicodedata.category(character) in ("Cs", "Cc") and character not in "\n\t" else character
        for character in text
    )


def shorten(name: str, limit: int = 30) -> str:
    """The name on one line; longer than `limit` with an ellipsis in its middle, because names may end with a number."""
    line = " ".join(printable(name).split())
    tail = limit // 3
    return line if len(line) <= limit else f"{line[: limit - tail - 1]}…{line[-tail:]}"


def breakable(name: str) -> Markup:
    """The name as HTML that is broken after separators, not within words."""
    return Markup(_SEPARATOR.sub(r"\1<wbr>", str(escape(printable(name)))))
