"""Builds images without a daemon or a registry: buildah, on a Debian that debootstrap makes.

How this machine reaches its packages (pip's settings, apt's proxy, certificates, folders of wheels) is asked of pip
and apt, and given to the build read-only under /host, so that none of it gets into an image.
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

from programs import ROOT, run

SUITE = "bookworm"
# Asked at import: the tests' own cache is set later, and it goes when they end.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regnet"
# What buildah and debootstrap mount is in a mount namespace of their own and gone when they end, however they end.
PRIVATE = ["unshare", "--mount"]
ONLY_LOOPBACK = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""
NO_NETWORK = ["unshare", "--mount", "--net", sys.executable, "-c", ONLY_LOOPBACK]


def why_unavailable(scratch: Path) -> str | None:
    """What keeps this machine from building images, if anything does."""
    absent = [tool for tool in ("buildah", "debootstrap", "unshare") if not shutil.which(tool)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "building an image takes root here"
    try:
        os.mknod(scratch / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        return "the kernel lets nobody make device files here, and debootstrap makes some"
    allowed = subprocess.run([*NO_NETWORK, "true"], capture_output=True, text=True, timeout=60)
    return f"the kernel allows no namespaces here: {allowed.stderr.strip()}" if allowed.returncode else None


class Host:
    """What a build needs of this machine; `volumes` are buildah's flags that give it."""

    def __init__(self, scratch: Path):
        self.paths: set[Path] = set()
        pip, apt = scratch / "pip.conf", scratch / "apt.conf"
        with pip.open("w") as file:
            self._pip_settings().write(file)
        apt.write_text(self._apt_settings())
        self.volumes = [f"--volume={pip}:/etc/pip.conf:ro", f"--volume={apt}:/etc/apt/apt.conf.d/99host:ro"]
        self.volumes += [f"--volume={path}:/host{path}:ro" for path in sorted(self.paths)]

    def _pip_settings(self) -> RawConfigParser:
        """pip's own view of its files and of the environment, as one file."""
        found = RawConfigParser()
        listing = run([sys.executable, "-m", "pip", "config", "list"]).stdout
        entries = re.findall(r"^(:env:|[\w-]+)\.([\w.-]+)=(.*)$", listing, re.MULTILINE)
        for section, name, value in sorted(entries, key=lambda entry: entry[0] == ":env:"):
            section = "global" if section == ":env:" else section
            found.setdefault(section, {})
            found[section][name] = ast.literal_eval(value)
        found.setdefault("global", {})
        bundles = filter(None, map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")))
        if "cert" not in found["global"] and (bundle := next(bundles, None)):
            found["global"]["cert"] = bundle
        for section in found.values():
            for name, value in section.items():
                section[name] = self._moved(value, index="index-url" in name)
        return found

    def _apt_settings(self) -> str:
        """Proxies, certificates and how strictly dates are checked."""
        listing = run(["apt-config", "dump", "--format", '%f "%v";%n', "Acquire"]).stdout
        return self._moved("".join(re.findall(r"^Acquire::(?:https?|Check)\b.*\n", listing, re.MULTILINE)))

    def _moved(self, value: str, index: bool = False) -> str:
        """The value with every path in it under /host. An index of wheels may keep them beside itself."""

        def move(match: re.Match[str]) -> str:
            path = Path(match[2])
            if not path.exists():
                return match[0]
            self.paths.add(path.parent if index else path)
            return f"{match[1]}/host{path}"

        return re.sub(r"""(^|[\s"]|file://)(/[^\s";]+)""", move, value)


def mirror() -> list[str]:
    """Where this machine's apt has the suite from; debootstrap's own choice if it has another."""
    listing = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]).stdout
    found = [line.split()[2] for line in listing.splitlines() if line.startswith(f"{SUITE} main ")]
    return found[:1]


def debian(scratch: Path) -> Path:
    """A minimal Debian, made once for each user of this machine: 25 s."""
    archive = CACHE / f"{SUITE}-minbase.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        tree = scratch / SUITE
        made = run([*PRIVATE, "debootstrap", "--variant=minbase", SUITE, str(tree), *mirror()], timeout=300)
        assert made.returncode == 0, (made.stdout + made.stderr)[-3000:]
        partial = scratch / archive.name
        with tarfile.open(partial, "w") as tar:
            tar.add(tree, arcname=".")
        shutil.rmtree(tree)
        whole = archive.with_suffix(f".{os.getpid()}")
        shutil.move(partial, whole)
        whole.rename(archive)
    return archive


class Builder:
    """buildah with a store of its own.

    Args:
        store: a directory.
        layers: keep each instruction's result, which a repetition then need not build again; takes longer.
    """

    def __init__(self, store: Path, layers: bool):
        self.layers = layers
        self.scratch = store / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.places = ["--root", str(store / "images"), "--runroot", str(store / "state")]
        self.driver = "overlay"
        cannot = self("info")
        if cannot.returncode != 0:
            warnings.warn(f"images are stored without overlay, slower and larger: {cannot.stderr}", stacklevel=2)
            self.driver = "vfs"

    def __call__(
        self, *arguments: str, prefix: list[str] = PRIVATE, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        command = [*prefix, "buildah", "--storage-driver", self.driver, *self.places, *arguments]
        return run(command, timeout=timeout, TMPDIR=str(self.scratch), BUILDAH_ISOLATION="chroot")

    def build(self, name: str, dockerfile: Path, context: Path, *flags: str, timeout: float = 60) -> str:
        what = ["--file", str(dockerfile), "--tag", name, *flags, str(context)]
        done = self(
            "bud", "--format=docker", "--pull-never", f"--layers={str(self.layers).lower()}", *what, timeout=timeout
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        return name

    def build_base(self) -> str:
        """The base image that stands in for a registry's."""
        archive = debian(self.scratch)
        dockerfile = self.scratch / "base.Dockerfile"
        dockerfile.write_text(f"FROM scratch\nADD {archive.name} /\n")
        return self.build(f"localhost/debian:{SUITE}", dockerfile, archive.parent)

    def build_project(self) -> str:
        base = f"--build-arg=BASE_IMAGE={self.build_base()}"
        volumes = Host(self.scratch).volumes
        return self.build("localhost/regnet", ROOT / "Dockerfile", ROOT, base, *volumes, timeout=700)
