"""python -m benchmarks.peers: the comparison runs, every trainer does the requested work, and errors are clear."""

import functools
import importlib.util
import json
import subprocess
from dataclasses import asdict, replace

import pytest
from failing_clean_up import failing_clean_up
from fork_server import ForkedCommand
from limits import LIMIT
from processes import ROOT, has_exited, run, wait_until

from benchmarks.launch import Launcher, LaunchFailed, kill_tree, process_tree
from benchmarks.peers import options, roster
from benchmarks.peers.__main__ import main
from benchmarks.peers.compare import prepare_settings
from benchmarks.peers.network import ModelMismatchError, our_network
from benchmarks.peers.outcome import Outcome, check, combine
from benchmarks.peers.protocol import Epoch, RankReport, Settings
from benchmarks.peers.roster import OURS, PEERS
from data.manifest import read_manifest
from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.models.regnet import Model

pytestmark = pytest.mark.xdist_group("benchmarks")  # these tests check that runs/ is left clean

SMALL = ("--config", "tests/tiny.yaml", "--batch-size", "96", "--epochs", "2", "--workers", "1", "--device", "cpu")


def run_peers_benchmark(*arguments, **env):
    return run(ForkedCommand(["-m", "benchmarks.peers", *SMALL, *map(str, arguments)]), **env)


def logs():
    return "\n".join(path.read_text() for path in (ROOT / "runs").glob("peers-*.log"))


@pytest.fixture(scope="module")
def make_settings(shards, tmp_path_factory):
    """The settings of a launch for additional command-line options."""

    @functools.cache
    def settings(*arguments):
        folder = tmp_path_factory.mktemp("settings")
        args = options.parser(None).parse_args([*SMALL, "--shards", str(shards), *arguments])
        options.complete(args)
        return prepare_settings(args, folder)

    return settings


def train(peer, settings, processes, folder):
    """The reports of a trainer's ranks, which are forked: under torchrun they would import everything again."""
    settings = replace(settings, reports=str(folder))
    (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    finished = run(ForkedCommand(["-m", f"benchmarks.peers.{peer.name}", str(folder / "settings.json")], processes))
    assert finished.returncode == 0, finished.stderr
    return [RankReport.read(folder / f"{rank}.json") for rank in range(processes)]


def requires(package):
    missing = package and importlib.util.find_spec(package) is None
    return pytest.mark.skipif(bool(missing), reason=f"needs {package} from requirements-peers.txt")


EVERY_PEER = [pytest.param(peer, marks=requires(peer.package), id=peer.name) for peer in PEERS.values()]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("peer", EVERY_PEER)
def test_every_trainer_trains_on_full_batches(make_settings, tmp_path, peer, processes):
    settings = make_settings("--steps", "8", "--lr", "0.3")
    reports = train(peer, settings, processes, tmp_path)
    assert len(reports) == processes
    outcome = combine(reports)
    check(outcome, peer, settings)
    assert [epoch.images for epoch in outcome.epochs] == [8 * 96] * 2
    assert outcome.epochs[1].loss < outcome.epochs[0].loss - 0.03  # by more than the effect of augmentation
    assert 0 < outcome.first_step < outcome.finished


@requires("timm")
def test_timms_model_has_the_same_parameter_shapes(make_settings):
    import data.sources.torchvision_datasets  # noqa: F401  # must come before timm, which imports torchvision

    # isort: split
    from benchmarks.peers.network import peers_network

    settings = make_settings("--network", "regnetx_002", "--steps", "1")
    ours, theirs = our_network(settings, 100), peers_network(settings, 100)
    assert type(ours) is not type(theirs)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize("variant", ["baseline", "paper"])
def test_settings_describe_the_model_and_other_models_are_rejected(shards, variant):
    """A trainer builds the same model from the settings, and rejects a model of another size or cost."""
    args = options.parser(None).parse_args([*SMALL, "--shards", str(shards), "--config", "configs/baseline.yaml"])
    options.complete(args)
    config = parse_config([*options.trainer_flags(args), "--model.variant", variant])
    manifest = read_manifest(shards)
    settings = Settings(**json.loads(json.dumps(asdict(options.settings(args, config, manifest)))))
    classes = len(manifest.classes)
    ours, trained = our_network(settings, classes), Model(config.model.design(), classes)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in trained.parameters()]
    assert ours.training
    for name in settings.measures:
        other = replace(settings, measures={**settings.measures, name: 7})
        with pytest.raises(ModelMismatchError, match=f"'{name}': 7"):
            our_network(other, classes)


@pytest.mark.thorough
def test_the_command_compares_and_reports(shards, tmp_path):
    report, figure = tmp_path / "report.json", tmp_path / "figure.png"
    more = ("--processes", 2, "--rounds", 1, "--steps", 3, "--json", report, "--figure", figure)
    finished = run_peers_benchmark("--shards", shards, "--peers", "resident", *more, **failing_clean_up(tmp_path))
    assert finished.returncode == 0, finished.stderr + logs()
    measured = json.loads(report.read_text())
    assert list(measured["results"]) == ["ours", "resident"]
    for result in measured["results"].values():
        assert result["memory_bytes"] > 100e6
        (launch,) = result["launches"]
        assert [epoch["images"] for epoch in launch["epochs"]] == [3 * 96] * 2
        assert result["images_per_second"]["median"] == pytest.approx(3 * 96 / launch["epochs"][1]["seconds"])
    rates = [measured["results"][name]["images_per_second"]["median"] for name in ("ours", "resident")]
    assert measured["results"]["resident"]["ours_over_it"]["median"] == pytest.approx(rates[0] / rates[1])
    assert measured["settings"]["steps"] == 3
    assert measured["versions"]["torch"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "resident batch" in finished.stdout
    assert max(map(len, finished.stdout.splitlines()[1:])) <= 80, "except for the line with the name of the processor"
    assert not list((ROOT / "runs").glob(".benchmark-*"))


def test_a_timeout_names_the_trainer(shards):
    finished = run_peers_benchmark("--shards", shards, "--peers", "plain_ddp", "--timeout", 1, "--steps", 1)
    assert finished.returncode == 1
    assert finished.stderr.startswith("failed: this trainer (ours), trial launch: not finished after 1 s")
    assert len(finished.stderr.splitlines()) == 1
    (ROOT / "runs" / "peers-ours.log").unlink()


def test_a_failed_launch_reports_its_error_and_keeps_its_output(make_settings, tmp_path):
    settings = replace(
        make_settings("--steps", "8", "--lr", "0.3"), images=str(tmp_path / "none"), reports=str(tmp_path)
    )
    launcher = Launcher(processes=1, threads=1, timeout=LIMIT, logs=tmp_path)
    with pytest.raises(LaunchFailed, match=r"exit code 1: FileNotFoundError: .*none") as failure:
        launcher.launch(PEERS["resident"].module, asdict(settings), tmp_path)
    assert str(tmp_path / "peers-resident.log") in str(failure.value)
    assert "FileNotFoundError" in (tmp_path / "peers-resident.log").read_text()


@pytest.mark.parametrize(
    ("death", "message"),
    [("os.abort()", "rank 1 was killed by SIGABRT"), ("os._exit(3)", "rank 1 exited with code 3")],
    ids=["signal", "exit"],
)
def test_a_rank_that_ends_without_an_error_is_named(tmp_path, monkeypatch, death, message):
    (tmp_path / "dying.py").write_text(f"import os, time\ntime.sleep(99) if os.environ['RANK'] == '0' else {death}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    launcher = Launcher(processes=2, threads=1, timeout=LIMIT, logs=tmp_path)
    with pytest.raises(LaunchFailed, match=f"exit code 1: {message}"):
        launcher.launch("dying", {}, tmp_path)
    assert ("Fatal Python error: Aborted" in (tmp_path / "dying.log").read_text()) == (death == "os.abort()")


def test_killing_a_launch_kills_its_ranks():
    process = subprocess.Popen(["sh", "-c", "setsid sleep 100 & wait"], start_new_session=True)
    wait_until(lambda: len(process_tree(process.pid)) == 2)
    members = process_tree(process.pid)
    assert members[0] == process.pid
    kill_tree(process)
    wait_until(lambda: all(map(has_exited, members)))


GOOD = [Epoch(2, 192, 1.0, 4.6, 0.01), Epoch(2, 192, 0.5, 4.5, 0.02)]


def test_reports_of_ranks_are_combined():
    halves = [Epoch(2, 96, 2.0, 4.0, 0.5), Epoch(2, 96, 1.0, 3.0, 0.5)]
    others = [Epoch(2, 48, 9.0, 7.0), Epoch(2, 48, 9.0, 3.0)]
    outcome = combine([RankReport(1.0, 5.0, halves, 10), RankReport(9.0, 9.0, others, 20)])
    assert outcome == Outcome(1.0, 5.0, [Epoch(2, 144, 2.0, 5.0, 0.5), Epoch(2, 144, 1.0, 3.0, 0.5)], 30)
    assert outcome.images_per_second == 144
    assert outcome.learned


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([], "1 epochs instead of 2"),
        ([Epoch(2, 96, 0.5, 4.5, 0.02)], "2 steps on 96 images in epoch 2 instead of 2 on 192"),
        ([Epoch(4, 192, 0.5, 4.5, 0.02)], "4 steps on 192 images in epoch 2 instead of 2 on 192"),
        ([Epoch(2, 192, 0.5, float("nan"), 0.02)], "the loss of epoch 2 is nan"),
        ([Epoch(2, 192, 0.5, 4.5, None)], "no evaluation after epoch 2"),
    ],
)
def test_an_outcome_with_other_work_than_requested_is_rejected(make_settings, second, message):
    settings = replace(make_settings("--steps", "8", "--lr", "0.3"), steps=2)
    check(Outcome(1.0, 5.0, GOOD, 0), OURS, settings)
    with pytest.raises(LaunchFailed, match=message):
        check(Outcome(1.0, 5.0, [GOOD[0], *second], 0), OURS, settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "plain_ddp,tinn"], "--peers tinn: must be one of"),
        (["--peers", "ours"], "name at least one other trainer"),
        (["--shards", "/nowhere"], "manifest.json"),
        (["--epochs", "1"], "--epochs 1"),
        (["--batch-size", "97", "--processes", "2"], "--batch-size 97"),
        (["--batch-size", "2000"], "--batch-size 2000"),
        (["--precision", "fp16"], "--precision fp16"),
        (["--resolution", "2"], "data.resolution must be at least"),
        (["--lr", "-1"], "optim.lr"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--json", "/nowhere/report.json"], "--json /nowhere/report.json"),
        (["--figure", "figure.gif"], "must end in .png"),
    ],
)
def test_invalid_usage_is_reported_in_one_line(shards, capsys, arguments, message):
    assert main([*SMALL, "--shards", str(shards), "--peers", "plain_ddp", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_missing_package_is_reported_with_the_install_command(monkeypatch):
    def version(package):
        if package == "timm":
            raise roster.PackageNotFoundError
        return "1"

    monkeypatch.setattr(roster, "version", version)
    assert set(roster.versions(roster.select("plain_ddp"), "ours")) == {"torch", "torchvision", "ffcv"}
    advice = "needs timm: pip install -r requirements-peers.txt"
    with pytest.raises(UsageError, match=f"^timm {advice}"):
        roster.versions(roster.select("timm_loop"), "ours")
    with pytest.raises(UsageError, match=f"^--network regnetx_002 {advice}"):
        roster.versions(roster.select("plain_ddp"), "regnetx_002")
