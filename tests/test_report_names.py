"""The report: names of classes and runs with any characters, and classes without validation samples."""

import json
import re
import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from report_files import classes_of, entries, table, text_of, write_evaluation, write_run, written

from regnet.report.class_accuracy import class_accuracy
from regnet.report.names import breakable, printable, shorten

NAMES = (
    "<script>alert(1)</script>",
    "<b>bold</b> & 'quoted' \"twice\"",
    "$x_1$ $\\frac$ {{ title }} {% if %}",
    "#010108",
    "caf\udce9",
    "شجرة_صفراء",
    "🦊",
    "line\nbreak\x00\x1b[31m",
    "yellow_triangle " * 13,
    "</script><!--",
)


def test_class_names_may_contain_any_characters(tmp_path):
    run = write_run(tmp_path / "caf\udce8 <i>", classes=NAMES)
    text = written(run, "--out", tmp_path / "out").read_text()
    index = tmp_path / "out" / "index.html"
    assert {name for name, _, _ in classes_of(index)} == {" ".join(printable(name).split()) for name in NAMES}
    assert "\ufffd" in text
    assert not re.search(r"<script>alert|<b>bold|<i>", text)
    assert "<title>caf\ufffd &lt;i&gt;</title>" in text
    for tag in ("script", "style"):
        assert text.count(f"<{tag}") == text.count(f"</{tag}>"), "no name ends a script early"
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {shorten(name) for name in NAMES} <= {re.sub("&(?:lt|gt|amp);", _unescaped, label) for label in labels}


def _unescaped(entity):
    return {"&lt;": "<", "&gt;": ">", "&amp;": "&"}[entity[0]]


def test_classes_without_validation_samples_are_dashes_and_last(tmp_path):
    run = write_run(tmp_path / "run")
    write_evaluation(run, ("ant", "bee", "cat"), confusion=np.array([[0, 0, 0], [2, 4, 0], [0, 0, 5]]))
    index = written(run)
    assert classes_of(index) == [("cat", 5, "100.0 %"), ("bee", 6, "66.7 %"), ("ant", 0, "–")]
    result = json.loads((run / "result.json").read_text())
    assert result["class_accuracy"]["ant"] is None
    text = text_of(index)
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    (run / "result.json").write_text(
        json.dumps({**result, "class_accuracy": {**result["class_accuracy"], "ant": np.nan}})
    )
    assert classes_of(written(run)) == classes_of(index)


def test_seeds_of_a_class_are_combined_where_they_have_samples(tmp_path):
    one, two = ({"class_accuracy": {"a": value, "b": None}, "class_samples": {"a": 8, "b": 0}} for value in (0.5, None))

    class Run:
        def __init__(self, result):
            self.result = result

    found = class_accuracy([Run(one), Run(two), Run({})])
    assert (found["a"].mean, found["a"].std, found["a"].samples) == (0.5, 0, 8)
    assert found["b"].mean is None


def test_most_frequent_confusions_name_their_classes_and_fractions(tmp_path):
    run = write_run(tmp_path / "run", classes=("an_ant", "a_bee", "a_cat"))
    index = written(run)
    assert entries(index, "confused") == ["2 17 % a_cat → an_ant", "1 9 % a_bee → a_cat"]
    assert table(index, "bins")[-1] == ["66.7 to 73.3 %", "8", "70.00 %", "90.91 %", "+20.91 %"]


@given(st.text())
def test_printable_text_is_utf_8_without_control_characters(text):
    shown = printable(text)
    assert len(shown) == len(text)
    shown.encode()
    assert {character for character in shown if unicodedata.category(character) == "Cc"} <= {"\n", "\t"}
    assert printable(shown) == shown


@given(st.text(max_size=300), st.integers(10, 40))
def test_shortened_names_are_one_line_within_the_limit(name, limit):
    short = shorten(name, limit)
    line = " ".join(printable(name).split())
    assert len(short) <= limit
    assert short == line if len(line) <= limit else (line.startswith(short.split("…")[0]) and "…" in short)


@given(st.text())
def test_breakable_names_keep_their_text_and_break_at_separators_only(name):
    from markupsafe import Markup

    markup = breakable(name)
    assert Markup(str(markup).replace("<wbr>", "")).unescape() == Markup(Markup.escape(printable(name))).unescape()
    assert all(part[-1:] in "_-./\\" for part in str(markup).split("<wbr>")[:-1])


def test_names_break_after_separators_not_within_words():
    assert breakable("yellow_triangle") == "yellow_<wbr>triangle"
    assert breakable("lr0.05") == "lr0.05"
    assert breakable("a__b.c/d<e>_") == "a__<wbr>b.<wbr>c/<wbr>d&lt;e&gt;_"
