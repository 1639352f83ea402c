"""Builds container images without a daemon or a registry: buildah, on a Debian base made by debootstrap.

The host's package access (pip settings, apt proxy, certificates, wheel directories) is read from pip and apt. During
the build it is mounted read-only under /host, so none of it becomes part of an image.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
from configparser import RawConfigParser
from pathlib import Path

from limits import LIMIT
from processes import ROOT, run

SUITE = "bookworm"
# Read at import, because a fixture later points XDG_CACHE_HOME to a temporary directory.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regnet"
# A private mount namespace: mounts of buildah and debootstrap disappear with the process, even if it crashes.
PRIVATE = ["unshare", "--mount"]
ONLY_LOOPBACK = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""
NO_NETWORK = ["unshare", "--mount", "--net", sys.executable, "-c", ONLY_LOOPBACK]


def why_unavailable(scratch: Path) -> str | None:
    """Why this machine cannot build images, or None if it can."""
    missing = [tool for tool in ("buildah", "debootstrap", "unshare") if not shutil.which(tool)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "building an image needs root"
    try:
        os.mknod(scratch / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        return "debootstrap needs to create device files, which the kernel does not allow here"
    allowed = subprocess.run([*NO_NETWORK, "true"], capture_output=True, text=True, timeout=LIMIT)
    return f"the kernel does not allow namespaces here: {allowed.stderr.strip()}" if allowed.returncode else None


class Host:
    """The host's package access. `volumes` are the buildah flags that mount it into a build."""

    def __init__(self, scratch: Path):
        self.paths: set[Path] = set()
        pip, apt = scratch / "pip.conf", scratch / "apt.conf"
        with pip.open("w") as file:
            self._pip_settings().write(file)
        apt.write_text(self._apt_settings())
        self.volumes = [f"--volume={pip}:/etc/pip.conf:ro", f"--volume={apt}:/etc/apt/apt.conf.d/99host:ro"]
        self.volumes += [f"--volume={path}:/host{path}:ro" for path in sorted(self.paths)]

    def _pip_settings(self) -> RawConfigParser:
        """pip's effective settings, from its files and the environment."""
        settings = RawConfigParser()
        listing = run([sys.executable, "-m", "pip", "config", "list"]).stdout
        entries = re.findall(r"^(:env:|[\w-]+)\.([\w.-]+)=(.*)$", listing, re.MULTILINE)
        for section, name, value in sorted(entries, key=lambda entry: entry[0] == ":env:"):
            section = "global" if section == ":env:" else section
            settings.setdefault(section, {})
            settings[section][name] = ast.literal_eval(value)
        settings.setdefault("global", {})
        bundles = filter(None, map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")))
        if "cert" not in settings["global"] and (bundle := next(bundles, None)):
            settings["global"]["cert"] = bundle
        for section in settings.values():
            for name, value in section.items():
                section[name] = self._under_host(value, index="index-url" in name)
        return settings

    def _apt_settings(self) -> str:
        """apt's proxies, certificates and date checks."""
        listing = run(["apt-config", "dump", "--format", '%f "%v";%n', "Acquire"]).stdout
        return self._under_host("".join(re.findall(r"^Acquire::(?:https?|Check)\b.*\n", listing, re.MULTILINE)))

    def _under_host(self, value: str, index: bool = False) -> str:
        """The value with its paths moved under /host. Mounts an index's parent directory, which may hold the wheels."""

        def move(match: re.Match[str]) -> str:
            path = Path(match[2])
            if not path.exists():
                return match[0]
            self.paths.add(path.parent if index else path)
            return f"{match[1]}/host{path}"

        return re.sub(r"""(^|[\s"]|file://)(/[^\s";]+)""", move, value)


def mirror() -> list[str]:
    """This machine's apt mirror for the suite; empty (debootstrap's default) if apt is set up for another suite."""
    listing = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]).stdout
    uris = [line.split()[2] for line in listing.splitlines() if line.startswith(f"{SUITE} main ")]
    return uris[:1]


def debian(scratch: Path) -> Path:
    """A tar archive of a minimal Debian, created once per user (25 s) and cached."""
    archive = CACHE / f"{SUITE}-minbase.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        tree = scratch / SUITE
        finished = run([*PRIVATE, "debootstrap", "--variant=minbase", SUITE, str(tree), *mirror()])
        assert finished.returncode == 0, (finished.stdout + finished.stderr)[-3000:]
        partial = scratch / archive.name
        with tarfile.open(partial, "w") as tar:
            tar.add(tree, arcname=".")
        shutil.rmtree(tree)
        complete = archive.with_suffix(f".{os.getpid()}")
        shutil.move(partial, complete)
        complete.rename(archive)
    return archive


class Builder:
    """buildah with a private image store.

    Args:
        store: directory of the image store.
        layers: cache the result of each instruction for later builds; takes longer.
    """

    def __init__(self, store: Path, layers: bool):
        self.layers = layers
        self.scratch = store / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.store_flags = ["--root", str(store / "images"), "--runroot", str(store / "state")]
        self.driver = "overlay"
        info = self("info")
        if info.returncode != 0:
            warnings.warn(f"no overlay driver, so images are larger and builds slower: {info.stderr}", stacklevel=2)
            self.driver = "vfs"

    def __call__(self, *arguments: str, prefix: list[str] = PRIVATE) -> subprocess.CompletedProcess[str]:
        command = [*prefix, "buildah", "--storage-driver", self.driver, *self.store_flags, *arguments]
        return run(command, TMPDIR=str(self.scratch), BUILDAH_ISOLATION="chroot")

    def build(self, name: str, dockerfile: Path, context: Path, *flags: str) -> str:
        arguments = ["--file", str(dockerfile), "--tag", name, *flags, str(context)]
        finished = self(
            "bud",
            "--format=docker",
            "--pull-never",
            f"--layers={str(self.layers).lower()}",
            *arguments,
        )
        assert finished.returncode == 0, (finished.stdout + finished.stderr)[-5000:]
        return name

    def build_base(self) -> str:
        """A local substitute for the base image from a registry."""
        archive = debian(self.scratch)
        dockerfile = self.scratch / "base.Dockerfile"
        dockerfile.write_text(f"FROM scratch\nADD {archive.name} /\n")
        return self.build(f"localhost/debian:{SUITE}", dockerfile, archive.parent)

    def build_project(self) -> str:
        base = f"--build-arg=BASE_IMAGE={self.build_base()}"
        volumes = Host(self.scratch).volumes
        return self.build("localhost/regnet", ROOT / "Dockerfile", ROOT, base, *volumes)
