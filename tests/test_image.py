"""The image is really built, on a Debian made here, and used as docker, Apptainer and SLURM's containers use one.

The image is made anew in every run (two minutes) and removed. REGNET_IMAGE_STORE=DIR keeps it there, with the layers
that a repetition then need not build again.
"""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from builder import NO_NETWORK, Builder, why_unavailable
from programs import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("image"), pytest.mark.timeout(900)]

PROGRAM = {"LICENSE", "Makefile", "README.md", "requirements.txt", "requirements-ffcv.txt", "train_ddp.py"}
PROGRAM |= {"benchmarks", "configs", "data", "regnet", "slurm", "tools"}
RESULTS = {"downloads", "runs", "shards"}
COMPILER = r".*/([^/]*(gcc|[gc][+][+]|clang|ziglang)[^/]*|cc|cc1[a-z]*|ld|as|Python\.h|turbojpeg\.h)"


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("image")
    if reason := why_unavailable(scratch):
        pytest.skip(reason)
    kept = os.environ.get("REGNET_IMAGE_STORE")
    yield Builder(Path(kept) if kept else scratch, layers=bool(kept))
    shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def image(builder):
    return builder.build_project()


@pytest.fixture(scope="module")
def inside(builder, image):
    """Runs a command in a container of the image, without a network."""
    container = builder("from", image).stdout.strip()

    # buildah can lose what a command says that ends at once.
    lingering = ("sh", "-c", '"$@"; status=$?; sleep 1; exit $status', "sh")

    def inside(*command, flags=(), timeout=60):
        return builder("run", *flags, container, "--", *lingering, *command, prefix=NO_NETWORK, timeout=timeout)

    yield inside
    builder("rm", container)


@pytest.fixture(scope="module")
def demo(inside):
    """Some steps, after which it is no better than chance: how well it trains has tests of its own.

    The network's interfaces come first, so that it is this very run that has no other.
    """
    short = "--train.epochs 1 --train.max_steps_per_epoch 20 --schedule.warmup_epochs 0"
    script = 'cat /proc/net/dev && exec make demo "$@"'
    return inside("sh", "-c", script, "demo", f"ARGS={short}", "BAR=-1", timeout=400)


def find(inside, *conditions):
    """What lies in the image and answers the conditions; root sees everything."""
    done = inside("find", "/", "-xdev", *conditions, flags=["--user", "0"])
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_demo_runs_inside_without_a_network(demo):
    assert demo.returncode == 0, demo.stderr[-3000:]
    print(demo.stdout.splitlines()[-1])
    assert "% of the test images right, chance is 1%. Everything about the run: runs/demo/" in demo.stdout
    assert re.findall(r"^ *([\w-]+):(?: +\d+){16}$", demo.stdout, re.MULTILINE) == ["lo"]


def test_anyone_runs_it_from_any_folder(inside, tmp_path):
    """As under Apptainer, and under docker --user: the caller's uid, home and working directory."""
    tmp_path.chmod(0o777)
    caller = ["--user", "4321:4321", "--env", "HOME=/work", "--volume", f"{tmp_path}:/work", "--workingdir", "/work"]
    convert = ["python", "-m", "data.convert", "--source", "synthetic", "--per-class", "10", "--out", "shards/demo"]
    converted = inside(*convert, flags=caller, timeout=100)
    assert converted.returncode == 0, converted.stderr[-3000:]
    torchrun = ["torchrun", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    program = ["--local-addr=127.0.0.1", "/opt/regnet/train_ddp.py", "--config", "/opt/regnet/configs/debug.yaml"]
    trained = inside(*torchrun, *program, flags=caller, timeout=200)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert (tmp_path / "runs" / "debug" / "result.json").stat().st_uid == 4321

    same = inside("make", "-n", "-f", "/opt/regnet/Makefile", "demo", flags=caller)
    assert same.returncode == 0, same.stderr
    assert "install.sh" not in same.stdout
    assert "/opt/venv/bin/torchrun" in same.stdout
    assert "/opt/regnet/train_ddp.py" in same.stdout


def test_it_is_described_and_runs_as_a_user(builder, image, inside):
    config = json.loads(builder("inspect", "--type=image", image).stdout)["Docker"]["config"]
    label = {key.removeprefix("org.opencontainers.image."): text for key, text in config["Labels"].items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (label["title"], label["version"]) == (project["name"], project["version"])
    assert label["description"] == project["description"]
    assert "revision" in label
    assert not config.get("Healthcheck")
    assert not config.get("Entrypoint")
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(config["Env"])
    assert inside("id", "-u").stdout.strip() == "1000"


def test_no_compiler_and_no_headers_are_left(inside):
    assert find(inside, "-path", "/opt/venv/bin/python")
    places = ["-not", "-path", "/usr/share/*", "-not", "-path", "/var/*"]
    found = find(inside, *places, "-regextype", "posix-extended", "-regex", COMPILER, "-not", "-name", "lib*.so*")
    assert not found
    assert inside("bash", "-c", "command -v gcc g++ cc c++ clang ld").returncode == 1


def test_the_program_alone_was_copied_and_anyone_can_read_it(inside):
    """Not .git, .venv, images or runs of the checkout; and read-only, but for where results go."""
    inside_it = {Path(path).name for path in find(inside, "-path", "/opt/regnet/*", "-prune")}
    assert RESULTS <= inside_it <= PROGRAM | RESULTS
    assert {"Makefile", "regnet", "train_ddp.py"} <= inside_it
    results = [f"/opt/regnet/{name}" for name in sorted(RESULTS)]
    theirs = [word for name in results for word in ("-not", "-path", f"{name}/*")]
    assert not find(inside, "-path", "/opt/*", *theirs, "-not", "-type", "l", "-not", "-perm", "-o=r")
    assert not find(inside, "-path", "/opt/*", *theirs, "-type", "d", "-not", "-perm", "-o=x")
    assert sorted(find(inside, "-path", "/opt/*", "-not", "-type", "l", "-perm", "-o=w", *theirs)) == results
    assert not find(inside, "-path", "/opt/*", *theirs, "-not", "-user", "0")
