"""Copies of the state for checkpoints: every element and stride, no shared memory in a file, no early overwriting."""

import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import run, trainer
from thoroughness import examples

from regnet.checkpoint.file import load, pack
from regnet.checkpoint.snapshot import Snapshots
from regnet.checkpoint.state_dicts import map_tensors
from regnet.training.checkpointing import Checkpointer

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "channels_last": lambda tensor: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor,
    "transposed": lambda tensor: tensor.transpose(0, -1) if tensor.dim() else tensor,
    "every second": lambda tensor: tensor[::2] if tensor.dim() else tensor,
    "part of a larger one": lambda tensor: torch.stack([tensor, tensor])[1],
}
tensors = st.builds(
    lambda shape, dtype, layout, seed: LAYOUTS[layout](
        torch.randint(0, 99, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    ),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 99),
)
leaves = tensors | st.none() | st.integers() | st.text(max_size=3)
contents = st.dictionaries(
    st.text(max_size=3), st.recursive(leaves, lambda inner: st.lists(inner) | st.tuples(inner, inner)), max_size=5
)


def tensors_of(nested):
    found = []
    map_tensors(nested, found.append)
    return found


@examples(150)
@given(state=contents)
def test_a_copy_has_the_same_contents_and_does_not_follow_the_original(state):
    originals = [(tensor.clone(), tensor.dtype, tensor.shape) for tensor in tensors_of(state)]
    copied = Snapshots(pin_memory=False).take(state)
    for tensor in tensors_of(state):
        tensor.zero_()
    assert map_tensors(copied, lambda _: None) == map_tensors(state, lambda _: None)
    for tensor, (values, dtype, shape) in zip(tensors_of(copied), originals, strict=True):
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
        assert torch.equal(tensor, values)


@pytest.mark.thorough
@examples(100)
@given(state=contents)
def test_a_file_of_copies_is_identical_to_a_file_of_plain_clones(state):
    dense = map_tensors(state, torch.Tensor.contiguous)
    copied = map_tensors(Snapshots(pin_memory=False).take(dense), torch.clone)
    assert pack(copied) == pack(map_tensors(dense, torch.clone))


def test_weights_in_channels_last_keep_their_strides():
    weight = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    copied = Snapshots(pin_memory=False).take({"weight": weight})["weight"]
    assert copied.stride() == copied.clone().stride() == weight.stride()


def test_the_memory_of_a_copy_is_used_again_by_the_next():
    snapshots, state = Snapshots(pin_memory=False), {"a": torch.ones(5), "b": [torch.ones(3), torch.ones(2).long()]}
    first = snapshots.take(state)
    second = snapshots.take(map_tensors(state, lambda tensor: 2 * tensor))
    assert [tensor.data_ptr() for tensor in tensors_of(first)] == [tensor.data_ptr() for tensor in tensors_of(second)]
    assert all((tensor == 2).all() for tensor in tensors_of(first))
    larger = snapshots.take({**state, "c": torch.ones(9)})
    assert all((tensor == 1).all() for tensor in tensors_of(larger))


def test_parameters_that_are_views_of_one_buffer_are_saved_without_it():
    buffer = torch.randn(1_000_000)
    views = {"a": buffer[64:104].view(5, 8), "b": buffer[640:650]}
    packed = pack(map_tensors(Snapshots(pin_memory=False).take(views), torch.clone))
    assert packed == pack({name: view.clone() for name, view in views.items()})
    assert len(packed) < 3000


def test_a_checkpoint_of_a_run_holds_each_tensor_once_and_nothing_else(shards, tmp_path):
    """In training the parameters are views of one flat tensor, and their momentum belongs to it."""
    assert run(trainer(tmp_path, shards, "--optim.ema_decay", "0.9")).returncode == 0
    path = tmp_path / "tiny" / "checkpoints" / "step-000000022.pt"
    found = tensors_of(load(path))
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == len(found)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in found)
    assert path.stat().st_size < 1.2 * sum(tensor.nbytes for tensor in found) + 600 * len(found)


def test_a_copy_waits_until_the_previous_checkpoint_is_written():
    """The writer is busy when the first checkpoint is saved, and a second one is due before it has begun."""
    written = []
    checkpointer = Checkpointer(SimpleNamespace(checkpoints=None, completed=(0, 0)), 1, pin_memory=False)
    checkpointer._write = lambda copied, *_: written.append(int(copied["step"]))
    busy = threading.Event()
    checkpointer._background._pool.submit(busy.wait)
    checkpointer.save({"step": torch.tensor(1)}, False, None)
    second = threading.Thread(target=checkpointer.save, args=({"step": torch.tensor(2)}, False, None))
    second.start()
    second.join(0.2)
    busy.set()
    second.join()
    checkpointer.wait()
    assert written == [1, 2]
