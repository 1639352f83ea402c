"""The report in a real browser: light, dark, phone and print; values at the pointer, toggles, tables that scroll."""

import re
import shutil

import numpy as np
import pytest
from browser import chromium, open_page
from limits import LIMIT
from report_files import CURVES, write_evaluation, write_run, written

CLASSES = tuple(f"{colour}_{shape}" for colour in ("red", "yellow", "blue") for shape in ("disc", "triangle", "ring"))
pytestmark = pytest.mark.xdist_group("report_browser")  # the reports are written once


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The report of a run with 100 classes."""
    run = write_run(tmp_path_factory.mktemp("single") / "run", classes=[f"some_class_{n}" for n in range(100)])
    rng = np.random.default_rng(0)
    confusion = rng.poisson(0.1, (100, 100)) + np.diag(rng.integers(1, 30, 100))
    write_evaluation(run, [f"some_class_{n}" for n in range(100)], confusion=confusion)
    return written(run)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """The report of two seeds and another configuration, with an accuracy of 100 %."""
    folder = tmp_path_factory.mktemp("comparison")
    for name, seed, lr in (("even-0", 0, 0.1), ("even-1", 1, 0.1), ("a_configuration_with-a-long.name", 0, 0.2)):
        write_run(folder / name, classes=CLASSES, seed=seed, config={"optim": {"lr": lr}}, top1=0.5 + seed / 10)
    write_evaluation(folder / "even-1", CLASSES, confusion=np.diag(np.full(9, 20)) + np.eye(9, k=1, dtype=int) * 4)
    return written(*sorted(folder.iterdir(), reverse=True))


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(browser, request):
    """Opens a report; after the test there must be no error or request, and nothing wider than the window."""
    pages = []

    def open_report(index, width=1280, scheme="light", **options):
        pages.append((open_page(browser, index, width, scheme, **options), index, width))
        return pages[-1][0]

    yield open_report
    for page, index, width in pages:
        assert page.console == []
        assert [url for url in page.requests if not url.startswith("data:")] == [index.as_uri()]
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        page.page.close()


@pytest.mark.parametrize(
    ("which", "width", "scheme"),
    [("single", 1280, "light"), ("comparison", 1280, "dark"), ("single", 390, "dark"), ("comparison", 390, "light")],
)
def test_every_figure_is_drawn_and_legible(opened, request, which, width, scheme):
    page = opened(request.getfixturevalue(which), width, scheme)
    figures, errors, (heading,) = page.pixels(".chart > svg.linear", ".errors img", "h1")
    assert (len(figures), len(errors)) == (len(CURVES) + 2, 6)
    for image in figures:
        assert min(image.shape[:2]) >= 60
        assert (np.ptp(image.astype(int), axis=2) > 30).sum() > 100, "text only, nothing drawn"
    sizes = page.page.evaluate(
        "[...document.querySelectorAll('.chart > svg.linear text')].map(text => [text.getScreenCTM(), text])"
        ".map(([m, text]) => Math.hypot(m.a, m.b) * parseFloat(getComputedStyle(text).fontSize))"
    )
    assert min(sizes) >= 7, "illegibly small text"
    assert heading[:2, -2:].mean() > 200 if scheme == "light" else heading[:2, -2:].mean() < 50


def test_figures_follow_the_colour_scheme(opened, single):
    strokes = []
    for scheme in ("light", "dark"):
        paths = "[...document.querySelectorAll('.chart path')].map(path => getComputedStyle(path).stroke)"
        strokes.append(set(opened(single, scheme=scheme).page.evaluate(paths)) - {"none"})
    assert "rgb(13, 84, 163)" in strokes[0] - strokes[1]
    assert "rgb(153, 161, 253)" in strokes[1] - strokes[0]
    assert not any(re.fullmatch(r"rgb\(1, 1, \d+\)", stroke) for stroke in strokes[0] | strokes[1])


def at(chart, x, y):
    """Moves the pointer to a fraction of the axes of a chart; returns the lines of the tooltip."""
    chart.scroll_into_view_if_needed()
    chart.evaluate("chart => chart.scrollIntoView({block: 'center', behavior: 'instant'})")
    svg = chart.locator("svg[data-axes]:visible").first
    box, (left, top, right, bottom) = svg.bounding_box(), map(float, svg.get_attribute("data-axes").split())
    scale = box["width"] / svg.evaluate("svg => svg.viewBox.baseVal.width")
    position = box["x"] + scale * (left + x * (right - left)), box["y"] + scale * (top + y * (bottom - top))
    chart.page.mouse.move(*position)
    return chart.page.locator("#tooltip").inner_text().splitlines()


def test_curves_show_their_values_at_the_pointer(opened, comparison):
    page = opened(comparison).page
    loss = page.locator(".chart").first
    assert at(loss, 0.02, 0.5)[0] == "epoch 1"
    lines = at(loss, 0.99, 0.1)
    assert lines[:3] == ["epoch 3", "even (2 seeds), validation: 1.667", "even (2 seeds), training: 1.333"]
    assert "a_configuration_with-a-long.name, validation: 1.667" in lines
    accuracy = at(page.locator(".chart").nth(1), 0.99, 0.1)
    assert "even (2 seeds), validation: 55 ± 7.071" in accuracy
    page.mouse.move(5, 5)
    assert page.locator("#tooltip").is_hidden()


def test_values_can_be_read_with_the_keyboard(opened, comparison):
    page = opened(comparison).page
    page.locator(".chart").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tooltip").inner_text().startswith("epoch 2")


def test_values_stay_after_a_touch_until_the_next_one_elsewhere(browser, comparison):
    context = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    context.set_default_timeout(1000 * LIMIT)
    page = context.new_page()
    page.goto(comparison.as_uri())
    tooltip = page.locator("#tooltip")
    for number, first in ((0, "epoch"), (2, "step")):
        page.locator(".chart").nth(number).tap()
        assert (tooltip.is_visible(), tooltip.inner_text()[:5].strip()) == (True, first)
    page.locator("h1").tap()
    assert tooltip.is_hidden()
    context.close()


def test_tables_are_sorted_by_the_heading_that_is_clicked(opened, comparison):
    page = opened(comparison).page
    names = "[...document.querySelectorAll('#runs tbody .name')].map(name => name.innerText.trim())"
    other, seeds = "a_configuration_with-a-long.name", "even (2 seeds)"
    assert page.evaluate(names) == ["even-1", "even-0", seeds, other], "best configuration first"
    for heading, expected in (
        ("best validation top-1", ["even-1", seeds, "even-0", other]),
        ("best validation top-1", ["even-0", other, seeds, "even-1"]),
        ("run", [other, seeds, "even-0", "even-1"]),
        ("training images/s", ["even-1", "even-0", other, seeds]),
    ):
        page.locator("#runs").get_by_role("button", name=heading, exact=True).click()
        assert page.evaluate(names) == expected, heading
    assert page.locator("#runs th[aria-sort]").inner_text() == "training images/s"


@pytest.mark.parametrize("width", [1280, 390])
def test_confusion_matrices_show_classes_and_counts_at_the_pointer(opened, single, width):
    page = opened(single, width).page
    chart = page.locator("#confusion .chart")
    if width == 390:
        chart.evaluate("chart => chart.scrollLeft = 60")
        x = 0.105
    else:
        x = 0.755
    true, predicted, count = at(chart, x, 0.755)
    assert true == "true: some_class_75"
    assert predicted == f"predicted: some_class_{int(100 * x)}"
    assert re.fullmatch(r"\d+ of \d+ samples \(\d+\.\d %\)", count)
    cell = page.locator("#confusion .cursor").bounding_box()
    assert cell["width"] == pytest.approx(cell["height"], abs=1)


def test_the_loss_can_be_shown_on_a_logarithmic_axis(opened, single):
    page = opened(single).page
    loss, accuracy = page.locator(".chart").nth(0), page.locator(".chart").nth(1)
    before = at(loss, 0.99, 0.5)
    page.check("#log")
    assert (loss.locator("svg.linear").is_visible(), loss.locator("svg.log").is_visible()) == (False, True)
    assert accuracy.locator("svg.linear").is_visible(), "accuracies stay linear"
    assert at(loss, 0.99, 0.5) == before


def test_curves_can_be_smoothed_as_in_tensorboard(opened, single):
    page = opened(single).page
    vertices = (
        "chart => [...chart.querySelector('svg.linear .series > path:not(.raw)').getAttribute('d')"
        ".matchAll(/[ML] (\\S+) (\\S+)/g)].map(match => Number(match[2]))"
    )
    steps = page.locator(".chart").nth(2)
    raw = steps.evaluate(vertices)
    for _ in range(2):  # the second time must not smooth the smoothed line
        page.locator("#smoothing").fill("0.8")
    smoothed = steps.evaluate(vertices)
    average, expected = 0, []
    for count, value in enumerate(raw, 1):
        average = 0.8 * average + 0.2 * value
        expected.append(average / (1 - 0.8**count))
    assert smoothed == pytest.approx(expected)
    assert page.locator("#weight").inner_text() == "0.80"
    assert steps.locator("svg.linear .raw").count() == 1
    page.locator("#smoothing").fill("0")
    assert steps.evaluate(vertices) == pytest.approx(raw)


def test_the_table_of_runs_scrolls_on_a_phone_and_keeps_its_first_column(opened, comparison):
    page = opened(comparison, 390).page
    place = "() => document.querySelector('#runs td').getBoundingClientRect().left"
    table = page.locator(".wide:has(#runs)")
    assert table.evaluate("table => table.scrollWidth > 1.5 * table.clientWidth")
    assert "gradient" in table.evaluate("table => getComputedStyle(table).backgroundImage"), "a shadow at the edge"
    before = page.evaluate(place)
    table.evaluate("table => table.scrollLeft = 200")
    assert page.evaluate(place) == before
    wide = opened(comparison, 1280).page.locator(".wide:has(#runs)")
    assert wide.evaluate("table => table.scrollWidth <= table.clientWidth")


def test_marks_at_100_percent_are_not_clipped_and_lists_use_the_width(opened, comparison, single):
    page = opened(comparison).page
    for box in page.evaluate(
        "[...document.querySelectorAll('.track .mark')].map(mark => [mark, mark.closest('li')])"
        ".map(pair => pair.map(element => element.getBoundingClientRect().right))"
    ):
        assert box[0] < box[1] - 10, "the value is to the right"
    page = opened(single).page
    right = (
        "Math.max(...[...document.querySelectorAll('#class-accuracy li')].map(li => li.getBoundingClientRect().right))"
    )
    body = page.evaluate("document.querySelector('h1').getBoundingClientRect().right")
    assert page.evaluate(right) == pytest.approx(body, abs=2)


@pytest.mark.parametrize("width", [1280, 390])
def test_names_are_not_broken_within_words(opened, comparison, width):
    page = opened(comparison, width).page
    parts = page.evaluate(
        """[...document.querySelectorAll('bdi')].flatMap(name => [...name.childNodes])
        .filter(node => node.nodeType === 3).map(node => {
            const range = document.createRange(); range.selectNodeContents(node);
            return [node.data, new Set([...range.getClientRects()].map(box => Math.round(box.top))).size];
        }).filter(([text]) => !text.trim().includes(' '))"""
    )
    assert {"yellow_", "triangle"} <= {text for text, _ in parts}
    assert [text for text, lines in parts if lines > 1] == []


def test_a_long_path_in_the_configuration_stays_in_its_column(opened, tmp_path):
    run = write_run(tmp_path / "run", classes=CLASSES, config={"data": {"shards": "/" + "x" * 300}})
    page = opened(written(run)).page
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    column, widest = page.evaluate(
        "(pre => { const range = document.createRange(); range.selectNodeContents(pre);"
        "return [parseFloat(getComputedStyle(pre).columnWidth) * 1.5,"
        "Math.max(...[...range.getClientRects()].map(line => line.width))]; })(document.querySelector('pre'))"
    )
    assert 100 < widest <= column


def test_without_the_script_everything_is_there_but_the_slider(browser, tmp_path, single):
    shutil.copy(single, tmp_path / "index.html")
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri(), timeout=1000 * LIMIT)
    assert page.locator("svg.linear:visible").count() == len(CURVES) + 2
    assert page.locator("#smoothing").is_hidden()
    page.check("#log")
    assert page.locator("svg.log:visible").count() == 3
    context.close()


def test_the_printed_report_is_light_and_complete(opened, comparison):
    page = opened(comparison, 720, "dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    for selector in (".wide", ".chart"):
        overflowing = (
            f"[...document.querySelectorAll('{selector}')].filter(box => box.scrollWidth > box.clientWidth + 1)"
        )
        assert page.evaluate(f"{overflowing}.length") == 0, selector
