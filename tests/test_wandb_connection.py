"""When Weights & Biases is connected: in a thread, which starts with the first report."""

import threading

from limits import LIMIT
from processes import TINY
from run_directory import state

from regnet.config.parser import parse_config
from regnet.runs.directory import RunDirectory
from regnet.runs.status import Ending, Status
from regnet.tracking.base import StepReport
from regnet.tracking.wandb_tracker import WandbTracker

REPORTS = [StepReport(epoch=1, step=1, lr=0.1, loss=2.0)]


class Connection:
    """Stands for regnet.tracking.wandb_start's connection; records in which threads it was asked for."""

    def __init__(self, error=None):
        self.threads, self.error, self.said = [], error, []

    def __call__(self):
        self.threads.append(threading.current_thread())
        if self.error:
            raise self.error

    def tracker(self):
        return WandbTracker(self, steps=0, timeout=LIMIT, say=self.said.append)


def test_the_connection_waits_for_the_first_report_and_delays_nothing_before():
    connection = Connection()
    tracker = connection.tracker()
    tracker.begin_epoch(1, steps=5, done=0)
    assert connection.threads == []
    tracker.log_steps(REPORTS)
    tracker.log_steps(REPORTS)
    tracker.close(Status.finished)
    (thread,) = connection.threads
    assert thread is not threading.current_thread()
    assert connection.said == []


def test_a_run_that_ends_before_its_first_report_is_connected_at_its_end():
    """So that Weights & Biases shows that it was preempted or failed, and a sweep starts it again."""
    connection = Connection()
    connection.tracker().close(Status.failed)
    assert len(connection.threads) == 1


def test_an_error_of_the_connection_is_reported_once_and_ends_nothing():
    connection = Connection(error=ConnectionError("no route"))
    tracker = connection.tracker()
    tracker.log_steps(REPORTS)
    tracker.log_steps(REPORTS)
    tracker.close(Status.finished)
    assert connection.said == ["Weights & Biases failed: ConnectionError: no route"]


def test_an_address_that_arrives_after_the_end_of_a_short_run_is_recorded(tmp_path):
    config = parse_config(["--config", str(TINY), "--runs_dir", str(tmp_path)])
    directory = RunDirectory(config, data="")
    directory.begin(0, 0, "")
    directory.write_state(2, 22, Ending(Status.finished, "Finished"))
    directory.wandb_url = "https://wandb.ai/someone/regnet/runs/1"
    directory.close()
    recorded = state(tmp_path / "tiny")
    assert (recorded["wandb_url"], recorded["state"], recorded["step"]) == (directory.wandb_url, "finished", 22)
