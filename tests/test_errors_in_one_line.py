"""Messages of errors are one line, and keep the paths that they name."""

from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError


@given(st.text())
def test_a_message_is_one_line(text):
    assert len(str(DataError(text)).splitlines()) <= 1


def test_spaces_in_a_path_are_kept():
    assert str(DataError("/my  images/a\t b.png: bad\n  second line\r\n")) == "/my  images/a\t b.png: bad second line"
