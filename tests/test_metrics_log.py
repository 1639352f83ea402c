"""metrics.jsonl on a disk that is full."""

import contextlib
import re

import pytest
from disks import mounted_tmpfs

from regnet.runs.atomic_write import AtomicWriter
from regnet.runs.status import Status
from regnet.tracking.base import StepReport
from regnet.tracking.metrics_log import MetricsLog


def test_a_full_disk_is_reported_with_the_name_of_the_file_by_each_call(tmp_path):
    """Closing the file tries again to write what did not fit, and its error is the one that the run reports."""
    with mounted_tmpfs(tmp_path / "disk", "size=64k") as disk:
        log = MetricsLog(AtomicWriter(disk), disk / "metrics.jsonl", 0, 0)
        with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        no_space = re.escape(f"No space left on device: '{disk}/metrics.jsonl'")
        with pytest.raises(OSError, match=no_space):
            log.log_steps([StepReport(1, 1, 0.1, 2.0)])
        with pytest.raises(OSError, match=no_space):
            log.close(Status.failed)
