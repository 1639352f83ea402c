"""The random numbers of an epoch as tables: equal to one number at a time, and computed for what is read only."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples

from data.augment import pipeline
from data.augment.pipeline import TrainingPipeline
from data.augment.progressive_resizing import ProgressiveResizing
from data.manifest import read_manifest
from data.rng import UNIFORM, Column, Purpose, integers, random_table, to_uniform, uniforms
from regnet.config.schema import AugmentConfig

CPU = torch.device("cpu")
AUGMENT = AugmentConfig(flip=True, crop_padding=4, cutout_size=6, randaugment_num_ops=2, mixup_prob=0.3)
ids = st.lists(st.integers(0, 2**40), max_size=20).map(lambda numbers: torch.tensor(numbers, dtype=torch.int64))
columns = st.lists(
    st.builds(
        lambda purpose, bound, per_sample, position: Column(purpose, bound, per_sample, position % per_sample),
        st.sampled_from(Purpose),
        st.integers(1, 2**31),
        st.integers(1, 5),
        st.integers(0, 4),
    ),
    max_size=6,
)


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000), columns, ids)
@examples(200)
def test_a_table_equals_its_numbers_one_column_at_a_time(seed, epoch, columns, ids):
    table = random_table(seed, epoch, columns, ids)
    assert table.dtype == torch.int64
    assert table.shape == (len(ids), len(columns))
    for found, column in zip(table.unbind(1), columns, strict=True):
        keys = ids * column.per_sample + column.position
        assert torch.equal(found, integers(seed, epoch, column.purpose, keys, column.bound))


def test_uniform_columns_become_the_uniform_numbers_of_their_purpose():
    ids = torch.arange(100)
    table = random_table(3, 4, [Column(Purpose.mix_lambda, UNIFORM)], ids)
    assert torch.equal(to_uniform(table[:, 0]), uniforms(3, 4, Purpose.mix_lambda, ids))


def training_pipeline(shards, **options):
    resizing = ProgressiveResizing(32, 32, 0)
    return TrainingPipeline(replace(AUGMENT, **options), read_manifest(shards), resizing, 5, CPU)


@pytest.mark.parametrize("rows", [1, 30, 64, 10**6])
def test_tables_of_any_number_of_batches_hold_the_same_numbers(shards, monkeypatch, rows):
    train = training_pipeline(shards)
    batches = list(torch.randperm(1000, generator=torch.Generator().manual_seed(0)).split(30))
    monkeypatch.setattr(pipeline, "_TABLE_ROWS", rows)
    found = list(train.random_numbers(batches, 2))
    assert [len(numbers) for numbers in found] == [len(ids) for ids in batches]
    for numbers, ids in zip(found, batches, strict=True):
        (alone,) = train.random_numbers([ids], 2)
        assert torch.equal(numbers, alone)
    assert found[0].shape[1] == 2 + 1 + 2 * 2 + 2 + 4, "crop, flip, RandAugment, Cutout, Mixup"
    assert list(train.random_numbers([], 2)) == []


def test_a_table_is_computed_when_its_first_batch_is_requested(shards, monkeypatch):
    """An epoch that ends after a few steps does not pay for the others."""
    train = training_pipeline(shards)
    computed = []
    monkeypatch.setattr(
        pipeline, "random_table", lambda *arguments: computed.append(len(arguments[3])) or random_table(*arguments)
    )
    monkeypatch.setattr(pipeline, "_TABLE_ROWS", 100)
    numbers = train.random_numbers(list(torch.arange(300).split(50)), 0)
    assert computed == []
    for _ in range(3):
        next(numbers)
    assert computed == [100, 100]


@pytest.mark.parametrize("mixup_prob", [0.0, 0.5])
def test_partners_of_many_batches_are_those_of_each(shards, mixup_prob):
    train = training_pipeline(shards, mixup_prob=mixup_prob)
    batches = list(torch.arange(100).split(30))
    together = train.ids_to_read(batches, 3)
    apart = [train.ids_to_read([ids], 3)[0] for ids in batches]
    assert [len(ids) for ids in together] == [(1 + (mixup_prob > 0)) * len(ids) for ids in batches]
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    assert train.ids_to_read([], 3) == []
