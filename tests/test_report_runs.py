"""python -m regnet.report: which paths are runs, how runs are grouped and named, what is written, and damaged files."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from report_files import (
    CURVES,
    OPTIONAL,
    epoch_row,
    key_figures,
    one_line_error,
    provenance_of,
    report,
    table,
    text_of,
    write_evaluation,
    write_run,
    written,
)

from regnet.errors import UsageError
from regnet.report.run_data import read_run_data


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_all_entries_of_a_directory_can_be_named_repeatedly(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        write_run(tmp_path / name, config={"optim": {"lr": lr}})
    (tmp_path / "notes.txt").write_text("not a run")
    skipped = []
    for _ in range(2):
        done = report(*sorted(tmp_path.iterdir()))
        assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "report" / "index.html")), done.stderr
        skipped.append(done.stderr)
        assert [row[0] for row in table(tmp_path / "report" / "index.html", "runs")] == ["a", "b"]
    assert skipped == [
        f"skipped 1 entry that is not a run: {tmp_path / 'notes.txt'}\n",
        f"skipped 2 entries that are not runs: {tmp_path / 'notes.txt'}, {tmp_path / 'report'}\n",
    ]


def test_a_single_run_among_other_entries_has_its_own_report(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "notes.txt").write_text("not a run")
    assert report(*tmp_path.iterdir()).stdout.strip() == str(tmp_path / "a" / "report" / "index.html")


def test_paths_without_any_run_are_a_one_line_error(tmp_path):
    write_run(tmp_path / "a")
    missing = tmp_path / "nowhere"
    assert f"{missing} is not a run: it does not exist" in one_line_error(tmp_path / "a", missing)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} is not a run: it has no state.json" in one_line_error(tmp_path / "empty")
    assert not list(tmp_path.rglob("*.html"))


def test_the_best_of_many_configurations_have_colours_and_the_others_are_grey(tmp_path):
    for number in range(11):
        write_run(tmp_path / f"r{number:02d}", config={"optim": {"lr": number}}, top1=(number * 7 % 11) / 20)
    index = written(*sorted(tmp_path.iterdir()))
    text = text_of(index)
    assert "<h1><bdi>11 runs</bdi></h1>" in text
    order = [row[0] for row in table(index, "runs")]
    assert order == [f"r{number:02d}" for number in sorted(range(11), key=lambda number: -(number * 7 % 11))]
    runs = text.split('<table id="runs"')[1].split("</table>")[0]
    key = text.split('<ul class="key">')[1].split("</ul>")[0]
    assert re.findall("<bdi>(.*?)</bdi>", key) == order[:8]
    worst = {f"r{number:02d}" for number in range(11) if number * 7 % 11 < 3}
    grey = {row.split("<bdi>")[1].split("</bdi>")[0] for row in runs.split("<tr>") if 'class="mark grey"' in row}
    assert grey == worst
    assert "3 other configurations" in text
    assert table(index, "differences", heading=True)[:2] == [["run", "optim.lr"], ["r03", "3"]]
    assert "The 8 configurations with the highest best validation top-1" in text
    (svg,) = (part for part in text.split("<svg ") if 'aria-label="Top-1 accuracy, %"' in part)
    assert svg.count('class="other"') == 2 * 3
    assert svg.count('class="series"') == 2 * 8


def test_only_runs_of_the_same_task_are_combined(tmp_path):
    write_run(tmp_path / "a-0", seed=0)
    write_run(tmp_path / "a-1", seed=1)
    write_run(tmp_path / "other-images", seed=2, data="other")
    write_run(tmp_path / "same-seed", seed=0)
    index = written(*(tmp_path / name for name in ("a-0", "a-1", "other-images", "same-seed", "same-seed/")))
    rows = table(index, "runs")
    assert [row[0] for row in rows] == ["a-0", "a-1", "a (2 seeds)", "other-images", "same-seed"], "no duplicate"


def test_seeds_are_combined_and_only_different_options_are_listed(tmp_path):
    runs = [write_run(tmp_path / "steep", config={"optim": {"lr": 0.02, "nesterov": True}}, top1=0.4)]
    runs += [write_run(tmp_path / f"even-{seed}", seed=seed, top1=0.5 + seed / 10) for seed in (0, 1)]
    write_evaluation(runs[-1], ("ant", "bee", "cat"), confusion=np.array([[5, 5, 0], [0, 9, 0], [0, 0, 9]]))
    index = written(*runs, "--out", tmp_path / "out")
    best = {row[0]: row[3] for row in table(index, "runs")}
    assert best == {
        "even-0": "50.00 % epoch 3",
        "even-1": "60.00 % epoch 3",
        "even (2 seeds)": "55.00 ± 7.07 %",
        "steep": "40.00 % epoch 3",
    }
    assert list(best) == ["even-0", "even-1", "even (2 seeds)", "steep"], "the best configuration first"
    bold = re.findall("<b>([^<]*)</b>", index.read_text().split('id="runs"')[1].split("</table>")[0])
    assert ("60.00 %" in bold, "50.00 %" in bold) == (True, False)
    assert table(index, "differences", heading=True) == [
        ["option", "even-0", "even-1", "steep"],
        ["optim.lr", "0.1", "0.1", "0.02"],
        ["seed", "0", "1", "0"],
        ["optim.nesterov", "–", "–", "true"],
    ]
    assert "Whiskers: ± one standard deviation over seeds" in text_of(index)


def test_runs_of_the_same_name_are_called_by_their_directories(tmp_path):
    runs = [write_run(tmp_path / folder / "run", config={"optim": {"lr": lr}}) for folder, lr in (("x", 1), ("y", 2))]
    index = written(*runs, "--out", tmp_path / "out")
    assert [row[0] for row in table(index, "runs")] == [str(run) for run in runs]


def test_losses_are_listed_and_missing_values_are_dashes_while_runs_train(tmp_path):
    write_run(tmp_path / "done")
    write_run(tmp_path / "unfinished", finished=False)
    shutil.copytree(tmp_path / "unfinished", tmp_path / "new")
    (tmp_path / "new" / "metrics.jsonl").unlink()
    write_run(tmp_path / "second", seed=1, finished=False)
    index = written(*(tmp_path / name for name in ("done", "unfinished", "new", "second")))
    headings, *rows = table(index, "runs", heading=True)
    loss = headings.index("final validation loss")
    assert headings[loss : loss + 3] == ["final validation loss", "final training loss", "calibration error (ECE)"]
    cells = {row[0]: row[loss : loss + 3] for row in rows}
    assert cells["done"][:2] == ["0.500", "1.333"], "of result.json, which describes the last epoch's weights"
    assert cells["unfinished"] == ["1.667", "1.333", "–"]
    assert cells["new"] == ["–"] * 3
    assert cells["done, second (2 seeds)"][1:] == ["1.333 ± 0.000", "–"], "a single error has no deviation"
    text = text_of(index)
    assert "Available when" not in text, "one of the runs has finished"
    assert 'id="confusion"' in text
    assert "markers: the other configurations" not in text


def test_the_provenance_lists_and_links_what_is_recorded(tmp_path):
    run = write_run(tmp_path / "a #1 & run")
    url = "https://wandb.example/me/project/runs/abc"
    edit_json(run / "state.json", wandb_url=url, command=["python", "train_ddp.py", "--name", "a b"], jobs=["slurm:7"])
    environment = {"host": "node1", "commit": "0123abcd-dirty", "device": "NVIDIA H100"}
    edit_json(run / "events.jsonl", environment=environment)
    index = written(run, "--out", tmp_path / "out")
    found = provenance_of(index)
    best = found.pop("best checkpoint")
    assert best == str(run / "checkpoints" / "best.pt")
    assert found == {
        "command": "python train_ddp.py --name 'a b'",
        "job": "slurm:7",
        "processes": "1 x cpu",
        "host": "node1",
        "device": "NVIDIA H100",
        "git commit": "0123abcd-dirty",
        "images": "shards/x (identity id)",
        "Weights & Biases": url,
        "configuration": str(run / "config.yaml"),
        "metrics": str(run / "metrics.jsonl"),
    }
    links = re.findall('<a href="([^"#][^"]*)"', index.read_text())
    assert url in links
    assert "../a%20%231%20%26%20run/config.yaml" in links
    edit_json(run / "state.json", wandb_url="javascript:alert(1)")
    assert 'href="javascript' not in written(run).read_text()


def test_the_result_of_an_earlier_epoch_is_ignored(tmp_path):
    """A finished run that is continued for more epochs keeps its earlier result.json until it finishes again."""
    write_run(tmp_path / "longer")
    edit_json(tmp_path / "longer" / "result.json", epochs=1, top1=1.0)
    index = written(tmp_path / "longer")
    assert key_figures(index)["final validation top-1"] == "50.00 %"
    assert "Available when a run has finished" in text_of(index)


def test_a_report_removes_outdated_figures_and_never_writes_into_a_run(tmp_path):
    run = write_run(tmp_path / "run")
    folder = written(run, "--png").parent
    assert {path.name for path in folder.iterdir()} == CURVES | OPTIONAL | {"index.html"}
    (folder / "mine.png").write_bytes(b"")
    written(run)
    assert {path.name for path in folder.iterdir()} == {"mine.png", "index.html"}
    assert f"{run} is a run: choose another --out" in one_line_error(run, "--out", run)


def test_a_report_that_cannot_be_written_leaves_the_older_one(tmp_path):
    run = write_run(tmp_path / "run")
    index = written(run)
    before = index.read_bytes()
    (run / "report" / "time.png" / "file").mkdir(parents=True)  # renaming a file to a directory fails
    assert report(run, "--png").returncode != 0
    assert index.read_bytes() == before
    assert not [path for path in index.parent.iterdir() if path.name.startswith(".")], "no temporary files"


def test_runs_that_end_early_name_the_reason(tmp_path):
    for name, status in (("a", "failed"), ("b", "finished"), ("c", "preempted")):
        run = write_run(tmp_path / name, config={"optim": {"lr": name}})
        edit_json(run / "state.json", state=status, reason=f"why {name} <ended>")
    text = written(*sorted(tmp_path.iterdir())).read_text()
    assert "<bdi>a</bdi> <b>failed</b>: why a &lt;ended&gt;" in text
    assert "<bdi>c</bdi> <b>preempted</b>: why c" in text
    assert "why b" not in text
    assert "<p><b>failed</b>: why a" in written(tmp_path / "a").read_text()


def test_runs_that_cannot_be_read_do_not_prevent_a_comparison(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_run(tmp_path / name, config={"optim": {"lr": name}})
    lines = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "metrics.jsonl").write_text("".join([*lines[:6], lines[6][:20], *lines[7:]]))
    (tmp_path / "c" / "config.yaml").unlink()
    done = report(*sorted(tmp_path.iterdir()))
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert first.startswith(f"skipped: {tmp_path / 'b'} cannot be read: metrics.jsonl, line 7: ")
    assert second == f"skipped: {tmp_path / 'c'} is not a run: it has no config.yaml"
    assert [row[0] for row in table(tmp_path / "report" / "index.html", "runs")] == ["a", "d"]
    assert "metrics.jsonl, line 7" in one_line_error(tmp_path / "b", tmp_path / "c")


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


EVENT = {"time": "2026-01-01T00:00:00+00:00", "kind": "started", "attempt": 1, "epoch": 0, "step": 0, "detail": ""}
ARRAYS = dict.fromkeys(("confusion", "confidence", "labels", "predicted", "images"), 0)
EMPTY = {"confidence": np.zeros(0), "labels": np.zeros(0), "predicted": np.zeros(0), "images": np.zeros((0, 8, 8, 3))}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"{"),
        ("state.json", b"[]"),
        ("evaluation.npz", b"PK\x03\x04 truncated"),
        ("evaluation.npz", npz(classes=0, **ARRAYS)),
        ("evaluation.npz", npz(classes=np.array(["a"]))),
        ("evaluation.npz", npz(classes=np.array(["a"]), confusion=np.eye(1), **EMPTY, calibration=np.zeros(3))),
        ("config.yaml", b"a: ["),
        ("config.yaml", b""),
        ("result.json", b"{"),
        ("result.json", b"[]"),
        ("result.json", b'{"top1": 0.5, "class_accuracy": {}}'),
        ("events.jsonl", b"{"),
        ("events.jsonl", b"{}\n"),
        ("events.jsonl", json.dumps({**EVENT, "time": "yesterday"}).encode()),
        ("metrics.jsonl", b'{"kind": "epoch", "epoch": 1}\n'),
        ("metrics.jsonl", b"{\n{}\n"),
        ("metrics.jsonl", b"\xff\xfe\n"),
        ("metrics.jsonl", json.dumps({**epoch_row(1, 3), "val_top1": None}).encode() + b"\n"),
        ("metrics.jsonl", json.dumps({**epoch_row(1, 3), "of another version": "0.5"}).encode() + b"\n"),
        ("metrics.jsonl", b'{"kind": "step", "step": "3", "loss": 1.0, "lr": 0.1}\n'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_a_one_line_error(tmp_path, name, content):
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_run_data(run)
    (line,) = str(error.value).splitlines()
    assert str(run) in line
    assert name in line


def test_lines_and_columns_of_a_later_version_are_ignored(tmp_path):
    run = write_run(tmp_path / "run", epochs=2)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({**epoch_row(3, 3), "gradient_norm": 1.5}) + "\n" + '{"kind": "memory", "free": "1"}\n')
    assert [row["epoch"] for row in read_run_data(run).epochs] == [1, 2, 3]


def test_accuracies_and_samples_of_different_classes_are_a_one_line_error(tmp_path):
    run = write_run(tmp_path / "run")
    edit_json(run / "result.json", class_samples={"ant": 10})
    with pytest.raises(UsageError, match="class_accuracy and class_samples are of different classes"):
        read_run_data(run)


def test_evaluations_without_calibration_data_have_no_reliability_diagram(tmp_path):
    run = write_run(tmp_path / "run")
    write_evaluation(run, ("ant", "bee", "cat"), calibration="not recorded")
    assert 'id="calibration"' not in written(run).read_text()
