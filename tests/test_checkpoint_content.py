"""The content of checkpoint files: how they end, and where their tensors are read to."""

import hashlib

import pytest
import torch

from regnet.checkpoint.file import MAGIC, CorruptCheckpoint, has_trailer, load, pack


def test_the_end_of_a_file_tells_a_checkpoint_from_other_files():
    content = pack({"step": 3})
    assert content[-44:-36] == b"RGNTCKPT", "in every version: an older file is not mistaken for a damaged one"
    assert has_trailer(content)
    assert has_trailer(content[:-1] + bytes([content[-1] ^ 1])), "damaged, but a checkpoint"
    for other in (b"", MAGIC, content[:-1], content[:-44], content + b"\n", b"PK" + bytes(100), MAGIC + bytes(100)):
        assert not has_trailer(other)


def test_a_file_that_is_shorter_than_a_trailer_is_no_checkpoint(tmp_path):
    """Even if its digest is valid."""
    path = tmp_path / "step-000000001.pt"
    for start in (b"", MAGIC[:3], MAGIC, MAGIC + b"\4\0\0"):
        path.write_bytes(start + hashlib.sha256(start).digest())
        with pytest.raises(CorruptCheckpoint, match="truncated, or not a checkpoint of this program"):
            load(path)


def test_a_checkpoint_of_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    path = tmp_path / "best.pt"
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path.write_bytes(pack({"weight": torch.arange(5.0)}))
    assert b"cuda:0" in path.read_bytes()
    weight = load(path)["weight"]
    assert weight.device == torch.device("cpu")
    assert torch.equal(weight, torch.arange(5.0))
