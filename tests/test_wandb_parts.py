"""The transaction logs of wandb, and the order of rows: pure functions."""

import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import LIMIT
from wandb.proto.wandb_internal_pb2 import Record

from regnet.tracking.wandb_parts import first_missing_step, is_completed, mark_uploaded, offline_parts, read_records
from regnet.tracking.wandb_rows import BestValues, Kind, wandb_step

BLOCK, FILE_HEADER, HEADER = 32 * 1024, 7, 7  # bytes


def history_record(step, padding=0):
    record = Record()
    record.history.step.num = step
    item = record.history.item.add()
    item.key, item.value_json = "text", "x" * padding
    return record


def log_of(records):
    """A transaction log, as LevelDB writes it: records are split at the ends of blocks."""
    log = bytearray(b":W&B\0\0\0")
    for record in records:
        content, first = record.SerializeToString(), True
        while first or content:
            space = BLOCK - len(log) % BLOCK
            if space < 7:
                log += bytes(space)
                continue
            fragment, content = content[: space - 7], content[space - 7 :]
            kind = {(True, False): 1, (True, True): 2, (False, True): 3, (False, False): 4}[first, bool(content)]
            log += struct.pack("<IHB", 0, len(fragment), kind) + fragment
            first = False
    return bytes(log)


@given(sizes=st.lists(st.integers(0, 70_000), max_size=6), kept=st.floats(0, 1))
def test_a_log_that_ends_anywhere_is_read_up_to_its_last_record(tmp_path_factory, sizes, kept):
    records = [history_record(step, size) for step, size in enumerate(sizes, 1)]
    content = log_of(records)
    path = tmp_path_factory.mktemp("log") / "run-a.wandb"
    path.write_bytes(content)
    assert list(read_records(path)) == records
    path.write_bytes(content[: int(kept * len(content))])
    read = list(read_records(path))
    assert read == records[: len(read)]


@pytest.mark.parametrize("space", range(9))
def test_the_padding_of_a_block_is_skipped(tmp_path, space):
    """A block whose last bytes have no room for the header of a record."""
    length = BLOCK - FILE_HEADER - HEADER - space
    without_text = len(history_record(1, length).SerializeToString()) - length
    records = [history_record(1, length - without_text), history_record(2), history_record(3)]
    assert len(records[0].SerializeToString()) == length
    path = tmp_path / "run-a.wandb"
    path.write_bytes(log_of(records))
    assert list(read_records(path)) == records


def test_a_log_is_complete_once_its_exit_is_written(tmp_path):
    """wandb writes it after it has answered that the run is finished."""
    ended = Record()
    ended.exit.exit_code = 0
    log = tmp_path / "run-a.wandb"
    log.write_bytes(log_of([history_record(1)]))
    assert not is_completed(log, timeout=0)
    writing = threading.Thread(target=lambda: (time.sleep(0.2), log.write_bytes(log_of([history_record(1), ended]))))
    writing.start()
    assert is_completed(log, timeout=LIMIT)
    writing.join()


def write_part(folder, name, *records, project="p"):
    part = folder / f"{name}-a"
    part.mkdir()
    run = Record()
    run.run.run_id, run.run.project = "a", project
    (part / "run-a.wandb").write_bytes(log_of([run, *records]))
    return part


def test_a_new_part_begins_after_the_rows_of_those_that_will_be_uploaded(tmp_path):
    def first_missing(project="p"):
        return first_missing_step(tmp_path, "a", project, "")

    assert first_missing() == 0
    first = write_part(tmp_path, "offline-run-20260101_000000", history_record(3), history_record(6))
    assert first_missing() == 7
    ended = Record()
    ended.exit.exit_code = 1
    write_part(tmp_path, "run-20260102_000000", history_record(30), ended)
    assert first_missing() == 7, "its upload may have failed"
    empty = tmp_path / "offline-run-20260104_000000-a"
    empty.mkdir()
    (empty / "run-a.wandb").write_bytes(b":W&B\0\0\0")
    assert offline_parts(tmp_path, "a") == [first], "wandb sync fails for an empty part"
    assert offline_parts(tmp_path, "b") == []
    mark_uploaded(tmp_path, "a")
    assert offline_parts(tmp_path, "a") == []
    assert first_missing() == 31
    assert first_missing("other") == first_missing_step(tmp_path, "a", "p", "team") == 0, "none is uploaded there"
    write_part(tmp_path, "offline-run-20260105_000000", history_record(4), project="other")
    assert first_missing("other") == 5


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Kind)), unique=True))
def test_wandb_steps_are_ordered_by_step_and_then_by_kind(rows):
    assert sorted(rows) == sorted(rows, key=lambda row: wandb_step(*row))
    assert len({wandb_step(*row) for row in rows}) == len(rows)


def test_a_loss_that_is_no_number_is_never_the_best():
    best = BestValues()
    for top1, loss in ((0.1, float("nan")), (0.3, 2.0), (0.2, 3.0), (0.1, float("nan"))):
        latest = best.updated({"val/top1": top1, "val/top5": top1, "val/loss": loss})
    assert latest == {"best/top1": 0.3, "best/top5": 0.3, "best/loss": 2.0}
