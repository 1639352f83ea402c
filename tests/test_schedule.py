"""Learning-rate schedules."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import needs_baseline_data, read_baseline_table
from thoroughness import examples

from regnet.config.schema import ScheduleConfig
from regnet.optim.schedules import learning_rate

BASELINE = ScheduleConfig(name="baseline", warmup_epochs=5, decay_epochs=14, start_lr=1e-5, min_lr=1e-5)


@needs_baseline_data
@given(steps_per_epoch=st.integers(1, 2000), position=st.floats(0, 1))
@examples(100)
def test_baseline_schedule_gives_the_40_logged_learning_rates_in_every_step_of_their_epochs(steps_per_epoch, position):
    rows = read_baseline_table("training_log.csv")
    assert len(rows) == 40
    for row in rows:
        step = (int(row["epoch"]) - 1) * steps_per_epoch + math.floor(position * (steps_per_epoch - 1))
        lr = learning_rate(step, steps_per_epoch, 40, 1e-3, BASELINE)
        assert lr == pytest.approx(float(row["lr"]), abs=1e-6, rel=0)


@given(epochs=st.integers(1, 60), warmup=st.integers(0, 10), decay=st.integers(1, 20), peak=st.floats(1e-4, 10))
@examples(100)
def test_baseline_schedule_warms_up_decays_and_stays_at_min_lr(epochs, warmup, decay, peak):
    schedule = ScheduleConfig("baseline", warmup, decay, start_lr=1e-5, min_lr=2e-5)
    lrs = [learning_rate(epoch, 1, epochs, peak, schedule) for epoch in range(epochs)]
    assert all(1e-5 * (1 - 1e-12) <= lr <= peak * (1 + 1e-12) for lr in lrs)
    assert all(before < after for before, after in pairwise(lrs[: warmup + 1]))
    assert all(before > after for before, after in pairwise(lrs[warmup : warmup + decay + 1]))
    assert all(lr == pytest.approx(2e-5) for lr in lrs[warmup + decay :])


runs = st.integers(1, 12).flatmap(
    lambda epochs: st.fixed_dictionaries(
        {
            "epochs": st.just(epochs),
            "warmup": st.integers(0, epochs - 1),
            "steps": st.integers(1, 30),
            "peak": st.floats(1e-6, 10),
            "start": st.floats(0, 1),
            "floor": st.floats(0, 1),
        }
    )
)


def smooth_schedule(name, run):
    schedule = ScheduleConfig(
        name, run["warmup"], start_lr=run["start"] * run["peak"], min_lr=run["floor"] * run["peak"]
    )
    total = run["epochs"] * run["steps"]
    return schedule, [learning_rate(step, run["steps"], run["epochs"], run["peak"], schedule) for step in range(total)]


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@given(run=runs)
@examples(100)
def test_smooth_schedules_start_at_start_lr_peak_after_warmup_and_end_at_min_lr(name, run):
    schedule, lrs = smooth_schedule(name, run)
    peak_step = run["warmup"] * run["steps"]
    if peak_step:
        assert lrs[0] == pytest.approx(schedule.start_lr)
    assert lrs[peak_step] == pytest.approx(run["peak"])
    if len(lrs) - 1 > peak_step:
        assert lrs[-1] == pytest.approx(schedule.min_lr, abs=1e-12 * run["peak"])


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@given(run=runs)
@examples(100)
def test_smooth_schedules_increase_then_decrease_and_stay_between_their_bounds(name, run):
    schedule, lrs = smooth_schedule(name, run)
    peak_step = run["warmup"] * run["steps"]
    slack = 1e-12 * run["peak"]
    assert all(before <= after + slack for before, after in pairwise(lrs[: peak_step + 1]))
    assert all(before >= after - slack for before, after in pairwise(lrs[peak_step:]))
    low = min(schedule.start_lr, schedule.min_lr)
    assert all(low - slack <= lr <= run["peak"] + slack for lr in lrs)


@pytest.mark.parametrize(("name", "position"), [("cosine", 0.25), ("onecycle", (1 - math.cos(math.pi / 4)) / 2)])
def test_warmup_is_linear_for_cosine_and_half_a_cosine_for_onecycle(name, position):
    schedule = ScheduleConfig(name, warmup_epochs=4, start_lr=0.2, min_lr=0.0)
    assert learning_rate(10, 10, 8, 1.0, schedule) == pytest.approx(0.2 + 0.8 * position)


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@pytest.mark.parametrize("quarter", range(5))
def test_smooth_schedules_decay_in_half_a_cosine_to_the_last_step(name, quarter):
    schedule = ScheduleConfig(name, warmup_epochs=1, start_lr=0.0, min_lr=0.1)
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi * quarter / 4)) / 2
    # Of 41 + 41 steps the first 41 are warm-up; 40 steps lead from the peak to the last one.
    assert learning_rate(41 + 10 * quarter, 41, 2, 1.0, schedule) == pytest.approx(expected)


@given(epochs=st.integers(1, 12), warmup=st.integers(0, 10), decay=st.integers(1, 20), steps=st.integers(1, 30))
def test_the_baseline_schedule_is_constant_within_an_epoch_and_follows_its_formula(epochs, warmup, decay, steps):
    schedule = ScheduleConfig("baseline", warmup, decay, start_lr=0.1, min_lr=0.2)
    for step in range(epochs * steps):
        epoch = step // steps
        if epoch < warmup:
            expected = 0.1 + (1 - 0.1) * epoch / warmup
        else:
            expected = 0.2 + (1 - 0.2) * math.cos(math.pi / 2 * min(1, (epoch - warmup) / decay))
        assert learning_rate(step, steps, epochs, 1.0, schedule) == pytest.approx(expected)
