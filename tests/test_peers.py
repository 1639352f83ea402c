"""The comparison with other trainers runs, all of them do what they are asked to do, and none is missing unsaid."""

import functools
import importlib.util
import json
import subprocess
from dataclasses import asdict, replace

import pytest
from nursery import ForkedCommand
from programs import ROOT, has_exited, run, wait_until

from benchmarks.launch import Launcher, LaunchFailed, end, family
from benchmarks.peers import options, roster
from benchmarks.peers.__main__ import main
from benchmarks.peers.compare import prepare
from benchmarks.peers.network import AnotherNetworkError, our_network
from benchmarks.peers.outcome import Outcome, check, combine
from benchmarks.peers.protocol import Epoch, RankReport, Settings
from benchmarks.peers.roster import OURS, PEERS
from data.manifest import read_manifest
from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.models.regnet import Model

pytestmark = pytest.mark.xdist_group("benchmarks")  # they look at what is left in runs/

SMALL = ("--config", "tests/tiny.yaml", "--batch-size", "96", "--epochs", "2", "--workers", "1", "--device", "cpu")


def compare(*arguments):
    return run(ForkedCommand(["-m", "benchmarks.peers", *SMALL, *map(str, arguments)]), timeout=250)


@pytest.fixture(scope="module")
def prepared(shards, tmp_path_factory):
    """Settings of a launch, by the command's further options."""

    @functools.cache
    def settings(*arguments):
        folder = tmp_path_factory.mktemp("prepared")
        args = options.parser(None).parse_args([*SMALL, "--shards", str(shards), *arguments])
        options.complete(args)
        return prepare(args, folder)

    return settings


def train(peer, settings, processes, folder):
    """What a peer's ranks tell; forked ones, since torchrun's would import everything anew."""
    settings = replace(settings, reports=str(folder))
    (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    done = run(ForkedCommand(["-m", f"benchmarks.peers.{peer.name}", str(folder / "settings.json")], processes))
    assert done.returncode == 0, done.stderr
    return [RankReport.read(folder / f"{rank}.json") for rank in range(processes)]


def needs(package):
    missing = package and importlib.util.find_spec(package) is None
    return pytest.mark.skipif(bool(missing), reason=f"needs {package}, of requirements-peers.txt")


EVERY_PEER = [pytest.param(peer, marks=needs(peer.package), id=peer.name) for peer in PEERS.values()]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("peer", EVERY_PEER)
def test_a_peer_trains_on_whole_batches_of_every_epoch(prepared, tmp_path, peer, processes):
    settings = prepared("--steps", "8", "--lr", "0.3")
    reports = train(peer, settings, processes, tmp_path)
    assert len(reports) == processes
    outcome = combine(reports)
    check(outcome, peer, settings)
    assert [epoch.images for epoch in outcome.epochs] == [8 * 96] * 2
    assert outcome.epochs[1].loss < outcome.epochs[0].loss - 0.03  # by more than augmentation makes it differ
    assert 0 < outcome.first_step < outcome.finished


@needs("timm")
def test_timms_network_has_the_layers_of_ours(prepared):
    import data.sources.torchvision_datasets  # noqa: F401  # before timm, which imports torchvision

    # isort: split
    from benchmarks.peers.network import peers_network

    settings = prepared("--network", "regnetx_002", "--steps", "1")
    ours, theirs = our_network(settings, 100), peers_network(settings, 100)
    assert type(ours) is not type(theirs)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize("variant", ["baseline", "paper"])
def test_a_launch_is_told_which_network_this_trainer_has(shards, variant):
    """What a peer builds from its file is as large, and one that is not is refused."""
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
        with pytest.raises(AnotherNetworkError, match=f"'{name}': 7"):
            our_network(other, classes)


def test_the_command_compares_and_tells(shards, tmp_path):
    report, picture = tmp_path / "report.json", tmp_path / "picture.png"
    more = ("--processes", 2, "--rounds", 1, "--steps", 3, "--json", report, "--picture", picture)
    done = compare("--shards", shards, "--peers", "resident", *more)
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text())
    assert list(told["results"]) == ["ours", "resident"]
    for result in told["results"].values():
        assert result["memory_bytes"] > 100e6
        (launch,) = result["launches"]
        assert [epoch["images"] for epoch in launch["epochs"]] == [3 * 96] * 2
        assert result["images_per_second"]["median"] == pytest.approx(3 * 96 / launch["epochs"][1]["seconds"])
    rates = [told["results"][name]["images_per_second"]["median"] for name in ("ours", "resident")]
    assert told["results"]["resident"]["ours_over_it"]["median"] == pytest.approx(rates[0] / rates[1])
    assert told["settings"]["steps"] == 3
    assert told["versions"]["torch"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "resident batch" in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80, "but for the name of the machine"
    assert not list((ROOT / "runs").glob(".benchmark-*"))


def test_a_peer_that_takes_too_long_ends_the_comparison_by_name(shards):
    done = compare("--shards", shards, "--peers", "plain_ddp", "--timeout", 1, "--steps", 1)
    assert done.returncode == 1
    assert done.stderr.startswith("failed: this trainer (ours), trial: not done after 1 s")
    assert len(done.stderr.splitlines()) == 1
    (ROOT / "runs" / "peers-ours.log").unlink()


def test_a_peer_that_fails_says_why_and_leaves_its_output(prepared, tmp_path):
    settings = replace(prepared("--steps", "8", "--lr", "0.3"), images=str(tmp_path / "none"), reports=str(tmp_path))
    launcher = Launcher(processes=1, threads=1, timeout=100, logs=tmp_path)
    with pytest.raises(LaunchFailed, match=r"exit status 1: FileNotFoundError: .*none") as failure:
        launcher.launch(PEERS["resident"].module, asdict(settings), tmp_path)
    assert str(tmp_path / "peers-resident.log") in str(failure.value)
    assert "FileNotFoundError" in (tmp_path / "peers-resident.log").read_text()


def test_the_end_of_a_launch_is_that_of_its_ranks_too():
    process = subprocess.Popen(["sh", "-c", "setsid sleep 100 & wait"], start_new_session=True)
    wait_until(lambda: len(family(process.pid)) == 2)
    members = family(process.pid)
    assert members[0] == process.pid
    end(process)
    wait_until(lambda: all(map(has_exited, members)), timeout=10)


GOOD = [Epoch(2, 192, 1.0, 4.6, 0.01), Epoch(2, 192, 0.5, 4.5, 0.02)]


def test_ranks_are_combined():
    halves = [Epoch(2, 96, 2.0, 4.0, 0.5), Epoch(2, 96, 1.0, 3.0, 0.5)]
    others = [Epoch(2, 48, 9.0, 7.0), Epoch(2, 48, 9.0, 3.0)]
    outcome = combine([RankReport(1.0, 5.0, halves, 10), RankReport(9.0, 9.0, others, 20)])
    assert outcome == Outcome(1.0, 5.0, [Epoch(2, 144, 2.0, 5.0, 0.5), Epoch(2, 144, 1.0, 3.0, 0.5)], 30)
    assert outcome.images_per_second == 144
    assert outcome.learned


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ([], "1 epochs instead of 2"),
        ([Epoch(2, 96, 0.5, 4.5, 0.02)], "2 steps on 96 images in epoch 2, instead of 2 on 192"),
        ([Epoch(4, 192, 0.5, 4.5, 0.02)], "4 steps on 192 images in epoch 2, instead of 2 on 192"),
        ([Epoch(2, 192, 0.5, float("nan"), 0.02)], "the loss of epoch 2 is nan"),
        ([Epoch(2, 192, 0.5, 4.5, None)], "no evaluation after epoch 2"),
    ],
)
def test_an_outcome_that_cannot_be_believed_is_none(prepared, second, complaint):
    settings = replace(prepared("--steps", "8", "--lr", "0.3"), steps=2)
    check(Outcome(1.0, 5.0, GOOD, 0), OURS, settings)
    with pytest.raises(LaunchFailed, match=complaint):
        check(Outcome(1.0, 5.0, [GOOD[0], *second], 0), OURS, settings)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--peers", "plain_ddp,tinn"], "--peers tinn: no such peer"),
        (["--peers", "ours"], "nothing to compare"),
        (["--shards", "/nowhere"], "manifest.json"),
        (["--epochs", "1"], "--epochs 1"),
        (["--batch-size", "97", "--processes", "2"], "--batch-size 97"),
        (["--batch-size", "2000"], "--batch-size 2000"),
        (["--precision", "fp16"], "--precision fp16"),
        (["--resolution", "2"], "resolution is 2"),
        (["--lr", "-1"], "optim.lr"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--json", "/nowhere/report.json"], "--json /nowhere/report.json"),
        (["--picture", "picture.gif"], "must end in .png"),
    ],
)
def test_wrong_usage_is_told_in_one_line(shards, capsys, arguments, complaint):
    assert main([*SMALL, "--shards", str(shards), "--peers", "plain_ddp", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    def version(package):
        if package == "timm":
            raise roster.PackageNotFoundError
        return "1"

    monkeypatch.setattr(roster, "version", version)
    assert set(roster.versions(roster.chosen("plain_ddp"), "ours")) == {"torch", "torchvision", "ffcv"}
    remedy = "needs timm: pip install -r requirements-peers.txt"
    with pytest.raises(UsageError, match=f"^timm {remedy}"):
        roster.versions(roster.chosen("timm_loop"), "ours")
    with pytest.raises(UsageError, match=f"^--network regnetx_002 {remedy}"):
        roster.versions(roster.chosen("plain_ddp"), "regnetx_002")
