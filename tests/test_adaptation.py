"""Options that contradict one another, or the data, are adapted with a note where that is harmless."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regnet.config.adaptation import adapt_to_dataset, resolve_conflicts
from regnet.config.parser import parse_config, parse_config_with_notes
from regnet.config.schema import AugmentConfig, Config, DataConfig, ScheduleConfig, TrainConfig
from regnet.config.validation import validate_config
from regnet.data_adapter import adapt_to_manifest
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


def test_workers_are_reduced_to_the_threads_of_the_process():
    config = replace(Config(), data=DataConfig(workers=8))
    assert adapt_to_dataset(config, False, threads=8) == (config, [])
    adapted, notes = adapt_to_dataset(config, False, threads=2)
    assert adapted == replace(config, data=DataConfig(workers=2))
    assert notes == ["data.workers reduced from 8 to 2: this process may use 2 threads"]


def test_images_of_different_sizes_are_cropped():
    config, notes = adapt_to_dataset(Config(), True, threads=8)
    assert (config.augment.rrc_min_scale, config.augment.crop_padding) == (0.25, 0)
    assert notes == [
        "augment.rrc_min_scale set to 0.25: this dataset stores images in their own shapes",
        "augment.crop_padding set to 0: augment.rrc_min_scale crops the images itself",
    ]
    chosen = replace(Config(), augment=AugmentConfig(rrc_min_scale=0.5, crop_padding=0))
    assert adapt_to_dataset(chosen, True, threads=8) == (chosen, [])
    assert adapt_to_dataset(Config(), False, threads=8) == (Config(), [])


def test_images_of_different_sizes_cannot_be_cached():
    with pytest.raises(UsageError, match=r"data.cache device .* set data.cache to auto or none"):
        adapt_to_dataset(replace(Config(), data=DataConfig(cache="device")), True, threads=8)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_manifest_and_the_threads_of_this_process_decide(mixed, monkeypatch):
    monkeypatch.setattr("regnet.data_adapter.max_workers", lambda: 3)
    config = replace(Config(), data=DataConfig(workers=8))
    assert adapt_to_manifest(config, SimpleNamespace(mixed=mixed)) == adapt_to_dataset(config, mixed, threads=3)


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


@given(configs, st.booleans(), st.integers(1, 64))
def test_adaptation_is_valid_idempotent_and_explains_every_change(config, mixed, threads):
    adapted, notes = resolve_conflicts(config)
    validate_config(adapted)
    assert bool(notes) == (adapted != config)
    assert resolve_conflicts(adapted) == (adapted, [])
    for_data, more = adapt_to_dataset(adapted, mixed, threads)
    validate_config(for_data)
    assert bool(more) == (for_data != adapted)
    assert adapt_to_dataset(for_data, mixed, threads) == (for_data, [])
    assert resolve_conflicts(for_data) == (for_data, [])
    assert for_data.data.workers <= threads
    assert for_data.augment.rrc_min_scale > 0 or not mixed
