"""Builds the container image on a local Debian base, and uses it as docker, Apptainer and SLURM would.

Every test run builds the image (two minutes) and removes it. REGNET_IMAGE_STORE=DIR keeps it and its layers in DIR, so
that later builds are faster.
"""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from image_builder import NO_NETWORK, Builder, why_unavailable
from processes import ROOT

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("image")]

PROGRAM_FILES = {"LICENSE", "Makefile", "README.md", "requirements.txt", "requirements-ffcv.txt", "train_ddp.py"}
PROGRAM_FILES |= {"artifacts", "benchmarks", "commandline", "configs", "data", "regnet", "slurm", "tools"}
RESULT_DIRECTORIES = {"downloads", "runs", "shards"}
COMPILER = r".*/([^/]*(gcc|[gc][+][+]|clang|ziglang)[^/]*|cc|cc1[a-z]*|ld|as|Python\.h|turbojpeg\.h)"


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("image")
    if reason := why_unavailable(scratch):
        pytest.skip(reason)
    store = os.environ.get("REGNET_IMAGE_STORE")
    yield Builder(Path(store) if store else scratch, layers=bool(store))
    shutil.rmtree(scratch)


@pytest.fixture(scope="module")
def image(builder):
    return builder.build_project()


@pytest.fixture(scope="module")
def inside(builder, image):
    """Runs a command in a container of the image, without network access."""
    container = builder("from", image).stdout.strip()

    # buildah can lose the output of a command that exits at once.
    delayed_exit = ("sh", "-c", '"$@"; status=$?; sleep 1; exit $status', "sh")

    def inside(*command, flags=()):
        return builder("run", *flags, container, "--", *delayed_exit, *command, prefix=NO_NETWORK)

    yield inside
    builder("rm", container)


@pytest.fixture(scope="module")
def demo(inside):
    """The output of a demo of a few steps, whose accuracy is at chance; accuracy is tested elsewhere.

    Prints the network interfaces first, to show that this container has no network.
    """
    short = "--train.epochs 1 --train.max_steps_per_epoch 20 --schedule.warmup_epochs 0"
    script = 'cat /proc/net/dev && exec make demo "$@"'
    return inside("sh", "-c", script, "demo", f"ARGS={short}", "MIN_ACCURACY=-1")


def find(inside, *conditions):
    """Paths in the image that match the conditions of find, which runs as root to see everything."""
    finished = inside("find", "/", "-xdev", *conditions, flags=["--user", "0"])
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


def test_the_demo_runs_without_a_network(demo):
    assert demo.returncode == 0, demo.stderr[-3000:]
    print(demo.stdout.splitlines()[-1])
    assert "% (chance: 1%); results, checkpoints and report are in runs/demo/" in demo.stdout
    assert re.findall(r"^ *([\w-]+):(?: +\d+){16}$", demo.stdout, re.MULTILINE) == ["lo"]


def test_any_user_can_run_the_image_from_any_directory(inside, tmp_path):
    """With the caller's uid, home and working directory, as under Apptainer and docker run --user."""
    tmp_path.chmod(0o777)
    caller = ["--user", "4321:4321", "--env", "HOME=/work", "--volume", f"{tmp_path}:/work", "--workingdir", "/work"]
    convert = ["python", "-m", "data.convert", "--source", "synthetic", "--per-class", "10", "--out", "shards/demo"]
    converted = inside(*convert, flags=caller)
    assert converted.returncode == 0, converted.stderr[-3000:]
    torchrun = ["torchrun", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    program = ["--local-addr=127.0.0.1", "/opt/regnet/train_ddp.py", "--config", "/opt/regnet/configs/debug.yaml"]
    trained = inside(*torchrun, *program, flags=caller)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert (tmp_path / "runs" / "debug" / "result.json").stat().st_uid == 4321

    dry_run = inside("make", "-n", "-f", "/opt/regnet/Makefile", "demo", flags=caller)
    assert dry_run.returncode == 0, dry_run.stderr
    assert "install.sh" not in dry_run.stdout
    assert "/opt/venv/bin/torchrun" in dry_run.stdout
    assert "/opt/regnet/train_ddp.py" in dry_run.stdout


def test_the_published_weights_predict_in_the_image(inside):
    """The lines of README.md, which name artifacts/ in the repository's directory."""
    program = """
from pathlib import Path
from PIL import Image
from regnet.checkpoint.load_model import load_trained_model
print(len(load_trained_model(Path("artifacts/cifar100-best.pt")).classes), "classes")
Image.new("RGB", (32, 32), "red").save("/tmp/red.png")
"""
    loaded = inside("python", "-c", program)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, "100 classes"), loaded.stderr
    predicted = inside("python", "-m", "regnet.predict", "--onnx", "artifacts/cifar100-best.onnx", "/tmp/red.png")
    assert predicted.returncode == 0, predicted.stderr
    assert "/tmp/red.png" in predicted.stdout


def test_the_image_has_labels_and_does_not_run_as_root(builder, image, inside):
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


def test_the_image_contains_no_compiler_and_no_headers(inside):
    assert find(inside, "-path", "/opt/venv/bin/python")
    excluded = ["-not", "-path", "/usr/share/*", "-not", "-path", "/var/*"]
    found = find(inside, *excluded, "-regextype", "posix-extended", "-regex", COMPILER, "-not", "-name", "lib*.so*")
    assert not found
    assert inside("bash", "-c", "command -v gcc g++ cc c++ clang ld").returncode == 1


def test_the_image_contains_only_the_program_readable_by_everyone(inside):
    """Without .git, .venv, images or runs of the checkout; read-only except for the result directories."""
    contents = {Path(path).name for path in find(inside, "-path", "/opt/regnet/*", "-prune")}
    assert RESULT_DIRECTORIES <= contents <= PROGRAM_FILES | RESULT_DIRECTORIES
    assert {"Makefile", "regnet", "train_ddp.py"} <= contents
    results = [f"/opt/regnet/{name}" for name in sorted(RESULT_DIRECTORIES)]
    skip_results = [word for name in results for word in ("-not", "-path", f"{name}/*")]
    assert not find(inside, "-path", "/opt/*", *skip_results, "-not", "-type", "l", "-not", "-perm", "-o=r")
    assert not find(inside, "-path", "/opt/*", *skip_results, "-type", "d", "-not", "-perm", "-o=x")
    assert sorted(find(inside, "-path", "/opt/*", "-not", "-type", "l", "-perm", "-o=w", *skip_results)) == results
    assert not find(inside, "-path", "/opt/*", *skip_results, "-not", "-user", "0")
