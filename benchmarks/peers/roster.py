"""Who is compared."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from regnet.errors import UsageError


@dataclass(frozen=True)
class Peer:
    """One way to train.

    Attributes:
        name: of its module in this package.
        label: in tables and pictures.
        package: from the registry that it needs beside this project's own, or empty.
        evaluates: on the test images after every epoch.
        timms: trains timm's implementation of a network that timm has.
    """

    name: str
    label: str
    package: str = ""
    evaluates: bool = True
    timms: bool = True

    @property
    def module(self) -> str:
        return f"benchmarks.peers.{self.name}"


OURS = Peer("ours", "this trainer", timms=False)
PEERS = {
    peer.name: peer
    for peer in (
        OURS,
        Peer("timm_loop", "timm", "timm"),
        Peer("torchvision_recipe", "torchvision recipe"),
        Peer("lightning_fit", "Lightning", "lightning"),
        Peer("accelerate_loop", "Accelerate", "accelerate"),
        Peer("plain_ddp", "plain DDP script"),
        Peer("resident", "resident batch", evaluates=False, timms=False),
    )
}


def chosen(text: str) -> list[Peer]:
    """This trainer, to which all are compared, and the peers of a comma-separated list.

    Raises:
        UsageError: there is no such peer, or none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise UsageError(f"--peers {unknown[0]}: no such peer; there are {', '.join(PEERS)}")
    if not set(names) - {OURS.name}:
        raise UsageError(f"--peers {text}: nothing to compare this trainer with; there are {', '.join(PEERS)}")
    return [peer for peer in PEERS.values() if peer is OURS or peer.name in names]


def versions(peers: list[Peer], network: str) -> dict[str, str]:
    """Of every package that the comparison rests on, by name.

    Raises:
        UsageError: one is not installed.
    """
    needed = {"torch": "", "torchvision": "", "ffcv": ""}
    needed |= {peer.package: peer.label for peer in peers if peer.package}
    if network != "ours" and any(peer.timms for peer in peers):
        needed.setdefault("timm", f"--network {network}")
    found = {}
    for package, wanted_by in needed.items():
        try:
            found[package] = version(package)
        except PackageNotFoundError as error:
            raise UsageError(
                f"{wanted_by or 'the comparison'} needs {package}: pip install -r requirements-peers.txt"
            ) from error
    return found
