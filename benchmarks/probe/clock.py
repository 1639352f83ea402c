"""Times single layers."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

from benchmarks.timing import Spread, rate

_CALLS = 10  # of each captured graph


@dataclass(frozen=True)
class Clock:
    """Measures calls on a device.

    Args:
        rounds: measurements, after a warm-up.
        seconds: approximate duration of each.
        bandwidth: of a copy, in bytes per second.
    """

    device: torch.device
    rounds: int
    seconds: float
    bandwidth: float

    def time(self, call: Callable[[], object], moved: int) -> dict[str, float]:
        """Microseconds of a call (median, lowest and highest), and their ratio to the time of moving its bytes.

        Args:
            moved: bytes that the call must read and write.
        """
        run, calls = self._prepared(call)

        def pieces() -> Generator[int]:
            while True:
                run()
                yield calls

        rate(pieces(), self.seconds / 5, self.device)
        rates = [rate(pieces(), self.seconds, self.device) for _ in range(self.rounds)]
        spread = Spread.of([1e6 / calls_per_second for calls_per_second in rates])
        limit = 1e6 * moved / self.bandwidth
        return {
            "us": spread.median,
            "lowest": spread.lowest,
            "highest": spread.highest,
            "bytes": moved,
            "ratio": spread.median / limit,
        }

    def _prepared(self, call: Callable[[], object]) -> tuple[Callable[[], object], int]:
        """What to run, and how many calls it makes: on a GPU a graph of several, else one."""
        call()  # chooses algorithms and creates handles, which a capture must not do
        call()
        if self.device.type != "cuda":
            return call, 1
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for _ in range(_CALLS):
                call()
        return graph.replay, _CALLS
