"""Options that contradict one another, or the data, are adapted with a note where that is harmless."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regnet.config.adaptation import adapt_to_dataset, reduce_workers, resolve_conflicts
from regnet.config.parser import parse_config, parse_config_with_notes
from regnet.config.schema import AugmentConfig, Config, DataConfig, ScheduleConfig, TrainConfig
from regnet.config.validation import validate_config
from regnet.data_adapter import adapt_to_manifest, adapt_to_process
from regnet.errors import UsageError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("epochs", "warmup", "adapted"), [(3, 5, 1), (1, 5, 0), (2, 2, 1), (5, 5, 2), (6, 5, 5), (40, 5, 5), (8, 100, 4)]
)
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_a_warmup_that_leaves_no_epoch_for_the_decay_is_reduced(schedule, epochs, warmup, adapted):
    flags = [f"--schedule.name={schedule}", f"--train.epochs={epochs}", f"--schedule.warmup_epochs={warmup}"]
    config, notes = parse_config_with_notes(flags)
    assert config.schedule.warmup_epochs == adapted
    reduced = f"schedule.warmup_epochs reduced from {warmup} to {adapted}: train.epochs is {epochs}"
    assert notes == ([] if adapted == warmup else [reduced])


def test_the_baseline_schedule_may_end_during_its_warmup():
    config, notes = parse_config_with_notes(["--schedule.name=baseline", "--train.epochs=3"])
    assert config.schedule.warmup_epochs == 5
    assert notes == []


def test_random_resized_crops_need_no_padding():
    config, notes = parse_config_with_notes(["--augment.rrc_min_scale=0.25"])
    assert config.augment.crop_padding == 0
    assert notes == ["augment.crop_padding set to 0: augment.rrc_min_scale crops the images itself"]
    assert parse_config(["--augment.crop_padding=4"]).augment.crop_padding == 4


def test_an_adapted_configuration_is_written_and_parsed_without_notes(tmp_path):
    config, notes = parse_config_with_notes(["--train.epochs=3", "--augment.rrc_min_scale=0.25"])
    assert len(notes) == 2
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert parse_config_with_notes([f"--config={tmp_path}/config.yaml"]) == (config, [])


def test_print_config_shows_the_notes_as_comments(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--train.epochs=3", "--print_config"])
    assert capsys.readouterr().out.startswith("# schedule.warmup_epochs reduced from 5 to 1: train.epochs is 3\nname:")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_need_no_adaptation(path):
    assert parse_config_with_notes([f"--config={path}"])[1] == []


def test_workers_are_reduced_to_the_threads_of_the_process(monkeypatch):
    config = replace(Config(), data=DataConfig(workers=8))
    assert reduce_workers(config, threads=8) == (config, [])
    adapted, notes = reduce_workers(config, threads=2)
    assert adapted == replace(config, data=DataConfig(workers=2))
    assert notes == ["data.workers reduced from 8 to 2: this process may use 2 threads"]
    monkeypatch.setattr("regnet.data_adapter.max_workers", lambda: 2)
    assert adapt_to_process(config) == (adapted, notes)


def test_a_batch_is_reduced_to_the_training_images():
    config = replace(Config(), train=TrainConfig(batch_size=500))
    assert adapt_to_dataset(config, False, samples=500) == (config, [])
    adapted, notes = adapt_to_dataset(config, False, samples=499)
    assert adapted == replace(config, train=TrainConfig(batch_size=499))
    assert notes == ["train.batch_size reduced from 500 to 499: there are 499 training images"]


def test_images_of_different_sizes_are_cropped():
    config, notes = adapt_to_dataset(Config(), True, samples=9999)
    assert (config.augment.rrc_min_scale, config.augment.crop_padding) == (0.25, 0)
    assert notes == [
        "augment.rrc_min_scale set to 0.25: this dataset stores images in their own shapes",
        "augment.crop_padding set to 0: augment.rrc_min_scale crops the images itself",
    ]
    chosen = replace(Config(), augment=AugmentConfig(rrc_min_scale=0.5, crop_padding=0))
    assert adapt_to_dataset(chosen, True, samples=9999) == (chosen, [])
    assert adapt_to_dataset(Config(), False, samples=9999) == (Config(), [])


def test_images_of_different_sizes_cannot_be_cached():
    """The message says why an option has a value that the user did not set."""
    message = r"rrc_min_scale \(0.25\): set data.cache to auto or none \(augment.rrc_min_scale set to 0.25: this"
    with pytest.raises(UsageError, match=message):
        adapt_to_dataset(replace(Config(), data=DataConfig(cache="device")), True, samples=9999)


@pytest.mark.parametrize("mixed", [False, True])
def test_adaptation_follows_the_sizes_and_the_number_of_images_in_the_manifest(mixed):
    manifest = SimpleNamespace(mixed=mixed, samples={"train": 3}.__getitem__)
    assert adapt_to_manifest(Config(), manifest) == adapt_to_dataset(Config(), mixed, samples=3)


configs = st.builds(
    Config,
    data=st.builds(DataConfig, workers=st.integers(1, 1000)),
    augment=st.builds(AugmentConfig, rrc_min_scale=st.sampled_from([0, 0.25, 1]), crop_padding=st.integers(0, 8)),
    train=st.builds(TrainConfig, epochs=st.integers(1, 12)),
    schedule=st.builds(
        ScheduleConfig,
        name=st.sampled_from(["cosine", "onecycle", "baseline"]),
        warmup_epochs=st.integers(0, 2**31 - 1),
    ),
)


@given(configs, st.booleans(), st.integers(1, 9999), st.integers(1, 64))
def test_adaptation_is_valid_idempotent_and_explains_every_change(config, mixed, samples, threads):
    adapted, notes = resolve_conflicts(config)
    validate_config(adapted)
    assert bool(notes) == (adapted != config)
    assert resolve_conflicts(adapted) == (adapted, [])
    for_data, more = adapt_to_dataset(adapted, mixed, samples)
    validate_config(for_data)
    assert bool(more) == (for_data != adapted)
    assert adapt_to_dataset(for_data, mixed, samples) == (for_data, [])
    assert resolve_conflicts(for_data) == (for_data, [])
    assert for_data.train.batch_size <= samples
    in_process, more = reduce_workers(for_data, threads)
    assert bool(more) == (in_process != for_data)
    assert reduce_workers(in_process, threads) == (in_process, [])
    assert in_process.data.workers <= threads
    assert for_data.augment.rrc_min_scale > 0 or not mixed
