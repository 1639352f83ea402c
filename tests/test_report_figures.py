"""Figures of the report: curves, bands of seeds, reliability diagram, confusion matrices; values for report.js."""

import io
import re
import statistics
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import figure as mpl_figure
from PIL import Image
from report_files import epoch_row

from data.sources.cifar100_superclasses import SUPERCLASSES
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.report.calibration import reliability_diagram
from regnet.report.class_plots import class_bars
from regnet.report.confusion import confusion_matrices
from regnet.report.curves import CURVES, Column, Curve
from regnet.report.figure import MARKERS, PNG_PALETTE, Figure
from regnet.report.seed_groups import SeedGroup, mean_over_runs, series_by_epoch, series_by_step

ERRORS = {"confidence": np.zeros(0), "labels": np.zeros(0), "predicted": np.zeros(0), "images": np.zeros((0, 8, 8, 3))}


def run_of(epochs, result=None, evaluation=None):
    best = max(epochs, key=lambda row: row.get("val_top1", 0)) if epochs else None
    return SimpleNamespace(epochs=epochs, steps=[], best=best, result=result or {}, evaluation=evaluation)


def evaluation_of(classes, confusion, calibration=None):
    return EvaluationFile(np.array(classes), np.asarray(confusion), **ERRORS, calibration=calibration)


def curve(name):
    (found,) = (curve for curve in CURVES if curve.name == name)
    return found


def test_runs_without_a_column_are_omitted_from_its_curve():
    older, newer = ([{"epoch": 1, "val_loss": loss}, {"epoch": 2, "val_loss": loss}] for loss in (1.0, 2.0))
    newer[1]["val_new"] = 0.5
    series = series_by_epoch([SimpleNamespace(epochs=older), SimpleNamespace(epochs=newer)], "val_new")
    assert (series.x.tolist(), series.mean.tolist()) == ([2], [0.5])


@given(st.lists(st.dictionaries(st.integers(0, 9), st.floats(-1e3, 1e3)), min_size=1, max_size=4))
def test_means_are_over_the_runs_that_have_a_value(columns):
    series = mean_over_runs(columns)
    assert series.x.tolist() == sorted({x for column in columns for x in column})
    for x, mean, std in zip(series.x, series.mean, series.std, strict=True):
        values = [column[x] for column in columns if x in column]
        assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
        assert std == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0, abs=1e-6)


def test_a_column_without_values_has_no_curve_and_one_of_zeros_is_visible():
    groups = [SeedGroup("run", (run_of([{"epoch": epoch, "none": None, "zero": 0.0} for epoch in (1, 2, 3)]),), 0)]
    curves = {name: Curve(name, name, "epoch", (Column(name),), from_zero=True) for name in ("other", "none", "zero")}
    assert [name for name, curve in curves.items() if curve.figure(groups) is not None] == ["zero"]
    pixels = np.asarray(Image.open(io.BytesIO(curves["zero"].figure(groups).png())).convert("RGB")).astype(int)
    colour = [int(PNG_PALETTE.groups[0][start : start + 2], 16) for start in (1, 3, 5)]
    assert (np.abs(pixels - colour).max(2) < 8).sum() > 1000, "a line over the full width"


def test_curves_name_their_line_styles_and_mark_the_best_epoch():
    epochs = [epoch_row(epoch, 3) for epoch in (1, 2, 3)]
    epochs[1]["val_top1"] = 0.9
    svg = curve("accuracy").figure([SeedGroup("run", (run_of(epochs),), 0)]).svg()
    assert re.findall("<text[^>]*>([a-z ]+)</text>", svg) == ["epoch", "validation", "training", "best epoch"]
    (line,) = re.findall(r'class="series">\s*<path d="([^"]*)"[^>]*stroke-width: 1.4; stroke-linecap: square', svg)
    vertices = [tuple(map(float, vertex.split())) for vertex in re.findall(r"[ML] (\S+ \S+)", line)]
    assert len(vertices) == 3, "report.js reads one vertex for each epoch"
    (star,) = re.findall(r'class="best">.*?<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg, re.DOTALL)
    assert tuple(map(float, star)) == pytest.approx(vertices[1], abs=0.01)


def test_a_single_epoch_has_one_tick():
    svg = curve("accuracy").figure([SeedGroup("run", (run_of([epoch_row(1, 1)]),), 0)]).svg()
    ticks = svg[svg.index('id="matplotlib.axis_1"') : svg.index('id="matplotlib.axis_2"')]
    assert re.findall("<text[^>]*>([^<]+)</text>", ticks) == ["1", "epoch"]


def test_values_of_curves_are_those_of_all_epochs_and_seeds():
    first, second = ([epoch_row(epoch, 3, top1) for epoch in (1, 2, 3)] for top1 in (0.3, 0.6))
    del second[2]
    groups = [SeedGroup("seeds", (run_of(first), run_of(second)), 0), SeedGroup("grey", (run_of(first),), None)]
    values = curve("accuracy").figure(groups).values
    assert (values["axis"], values["x"]) == ("epoch", [1, 2, 3])
    validation, training = values["series"]
    assert (validation["name"], training["name"]) == ("seeds, validation", "seeds, training"), "none of the grey run"
    assert validation["values"] == [15, 30, 30]
    assert validation["std"] == [pytest.approx(7.071), pytest.approx(14.14), 0]


def test_a_png_file_of_several_configurations_names_them():
    run = run_of([epoch_row(epoch, 3) for epoch in (1, 2, 3)])

    def legend(*colours):
        groups = [SeedGroup(f"run {number}", (run,), colour) for number, colour in enumerate(colours)]
        drawn = mpl_figure.Figure(layout="constrained")
        curve("time").figure(groups).draw(drawn.add_subplot(), PNG_PALETTE)
        return [text.get_text() for legend in drawn.legends for text in legend.get_texts()]

    assert legend(0) == []
    assert legend(1, 0) == ["run 0", "run 1"]
    assert legend(0, None, 1, None) == ["run 0", "run 2", "2 other configurations"]


def test_steps_are_averaged_over_windows_without_losses_that_are_not_finite():
    run = SimpleNamespace(steps=[{"step": step, "loss": loss} for step, loss in ((1, 2.0), (2, None), (3, 4.0))])
    for max_points, expected in ((3, ([1, 3], [2, 4])), (2, ([2, 4], [2, 4])), (1, ([3], [3]))):
        series = series_by_step([run], "loss", max_points)
        assert (series.x.tolist(), series.mean.tolist()) == expected


def test_logarithmic_curves_have_readable_ticks_and_omit_zeros():
    epochs = [{**epoch_row(epoch, 3), "train_loss": loss, "val_loss": loss} for epoch, loss in ((1, 20.0), (2, 2.0))]
    epochs.append({**epoch_row(3, 3), "train_loss": 0.0, "val_loss": 0.0})
    linear, log = curve("loss").figure([SeedGroup("run", (run_of(epochs),), 0)]).svgs()
    assert ('class="linear"' in linear, 'class="log"' in log) == (True, True)
    ticks = re.findall(r"<text[^>]*>([\d.]+)</text>", log)
    assert {"2", "5", "10", "20"} <= set(ticks)
    assert len(curve("accuracy").figure([SeedGroup("run", (run_of(epochs),), 0)]).svgs()) == 1


def test_colours_contrast_with_their_background():
    css = resources.files("regnet.report").joinpath("report.css").read_text()
    light, dark = (
        dict(re.findall(r"(--[\w-]+): (#\w{6})", block)) for block in css.split("prefers-color-scheme: dark")
    )
    assert [light[f"--group-{index}"] for index in range(len(MARKERS))] == list(PNG_PALETTE.groups)
    for colours in (light, {**light, **dark}):
        graphics = [colours[f"--group-{index}"] for index in range(len(MARKERS))]
        assert len(set(graphics)) == len(graphics)
        assert min(_contrast(colour, colours["--panel"]) for colour in (*graphics, colours["--muted"])) > 3
        text = (colours[name] for name in ("--ink", "--soft", "--link"))
        assert min(_contrast(colour, colours["--panel"]) for colour in text) > 4.5


def _contrast(one, other):
    def luminance(colour):
        channels = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        linear = [c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_reliability_diagram_pools_the_samples_of_all_seeds():
    counts = np.array([[0.0, 4, 6], [0, 1, 6], [0, 2, 5.4]])
    runs = [run_of([], evaluation=evaluation_of(["a"], [[10]], calibration)) for calibration in (counts, counts, None)]
    figure = reliability_diagram([SeedGroup("seeds", tuple(runs), 0)])
    accuracy, samples = figure.values["series"]
    assert figure.values["x"] == [16.7, 50.0, 83.3]
    assert accuracy["values"] == [None, 25.0, 100.0]
    assert samples["values"] == [0.0, 40.0, 60.0]
    assert reliability_diagram([SeedGroup("old", (runs[2],), 0)]) is None
    assert ">ideal</text>" in figure.svg()


def test_confusion_matrices_have_names_scale_and_counts():
    (figure,) = confusion_matrices(evaluation_of(["ant", "bee"], [[3, 1], [0, 4]]))
    assert figure.values == {"names": ["ant", "bee"], "samples": [4, 4], "cells": [[0, 0, 3], [0, 1, 1], [1, 1, 4]]}
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure.svg())
    assert texts.count("ant") == texts.count("bee") == 2, "rows and columns"
    assert {"true class", "predicted class", "% of the samples of the true class", "75", "25", "100"} <= set(texts)


@pytest.mark.parametrize("count", [100, 300])
def test_confusion_matrices_of_many_classes_name_those_that_fit(count):
    names = [f"class_{number}" for number in range(count)]
    (figure,) = confusion_matrices(evaluation_of(names, np.eye(count, dtype=int)))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure.svg())
    assert (set(names) <= set(texts)) is (count == 100)
    assert ("predicted class, by number" in texts) is (count == 300)
    assert figure.values["names"] == names, "names at the pointer"
    assert figure.is_large


def test_classes_of_cifar100_are_grouped_by_superclass():
    names = sorted(name for names in SUPERCLASSES.values() for name in names)
    superclasses, classes = confusion_matrices(evaluation_of(names, np.eye(100, dtype=int)))
    assert superclasses.values["names"] == list(SUPERCLASSES)
    assert superclasses.values["samples"] == [5] * 20
    assert classes.values["names"] == [name for names in SUPERCLASSES.values() for name in sorted(names)]
    assert "ordered by superclass" in classes.title
    lines_between = [figure.svg().count("stroke-width: 0.5") for figure in (superclasses, classes)]
    assert lines_between == [0, 2 * 19], "between the superclasses, across and down"


def test_class_bars_explain_their_whiskers_and_keep_markers_at_the_edge():
    def group(label, colour, *accuracies):
        results = [{"class_accuracy": {"a": value}, "class_samples": {"a": 9}} for value in accuracies]
        return SeedGroup(label, tuple(run_of([], result) for result in results), colour)

    (figure,) = class_bars([group("seeds", 0, 0.5, 0.7), group("other", 1, 1.0)])
    svg = Figure(figure.name, figure.title, figure.height, figure.draw).svg()
    assert {"a (9)", "seeds", "other", "± one standard deviation over seeds"} <= set(
        re.findall(">([^<>]+)</text>", svg)
    )
    marker = svg[svg.index("var(--group-1)") :]
    assert "clip-path" not in marker[: marker.index("</g>")]
