"""The trainers to compare."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from regnet.errors import UsageError


@dataclass(frozen=True)
class Peer:
    """A trainer.

    Attributes:
        name: name of its module in this package.
        label: name in tables and figures.
        package: the package that it needs in addition to requirements.txt; empty if none.
        evaluates: whether it evaluates on the validation images after every epoch.
        uses_timm_model: whether it trains timm's implementation of a model that timm provides.
    """

    name: str
    label: str
    package: str = ""
    evaluates: bool = True
    uses_timm_model: bool = True

    @property
    def module(self) -> str:
        return f"benchmarks.peers.{self.name}"


OURS = Peer("ours", "this trainer", uses_timm_model=False)
PEERS = {
    peer.name: peer
    for peer in (
        OURS,
        Peer("timm_loop", "timm", "timm"),
        Peer("torchvision_recipe", "torchvision recipe"),
        Peer("lightning_fit", "Lightning", "lightning"),
        Peer("accelerate_loop", "Accelerate", "accelerate"),
        Peer("plain_ddp", "plain DDP script"),
        Peer("resident", "resident batch", evaluates=False, uses_timm_model=False),
    )
}


def select(text: str) -> list[Peer]:
    """This trainer and those of a comma-separated list.

    Raises:
        UsageError: an unknown trainer, or no other trainer than this one.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise UsageError(f"--peers {unknown[0]}: must be one of {', '.join(PEERS)}")
    if not set(names) - {OURS.name}:
        raise UsageError(f"--peers {text}: name at least one other trainer: {', '.join(PEERS)}")
    return [peer for peer in PEERS.values() if peer is OURS or peer.name in names]


def versions(peers: list[Peer], network: str) -> dict[str, str]:
    """Versions of all packages that the comparison uses, by name.

    Raises:
        UsageError: a package is not installed.
    """
    needed = {"torch": "", "torchvision": "", "ffcv": ""}
    needed |= {peer.package: peer.label for peer in peers if peer.package}
    if network != "ours" and any(peer.uses_timm_model for peer in peers):
        needed.setdefault("timm", f"--network {network}")
    installed = {}
    for package, needed_by in needed.items():
        try:
            installed[package] = version(package)
        except PackageNotFoundError as error:
            raise UsageError(
                f"{needed_by or 'the comparison'} needs {package}: pip install -r requirements-peers.txt"
            ) from error
    return installed
