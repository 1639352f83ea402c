import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import needs_baseline_data, read_baseline_table

from regnet.config.schema import ScheduleConfig
from regnet.optim.schedules import learning_rate

REFERENCE = ScheduleConfig(name="baseline", warmup_epochs=5, decay_epochs=14, start_lr=1e-5, min_lr=1e-5)


@needs_baseline_data
@given(steps_per_epoch=st.integers(1, 2000), place=st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_reference_schedule_gives_the_40_logged_rates_in_every_step_of_their_epochs(steps_per_epoch, place):
    rows = read_baseline_table("training_log.csv")
    assert len(rows) == 40
    for row in rows:
        step = (int(row["epoch"]) - 1) * steps_per_epoch + math.floor(place * (steps_per_epoch - 1))
        rate = learning_rate(step, steps_per_epoch, 40, 1e-3, REFERENCE)
        assert rate == pytest.approx(float(row["lr"]), abs=1e-6, rel=0)


@given(epochs=st.integers(1, 60), warmup=st.integers(0, 10), decay=st.integers(1, 20), peak=st.floats(1e-4, 10))
@settings(deadline=None, max_examples=100)
def test_reference_schedule_rises_falls_and_stays(epochs, warmup, decay, peak):
    schedule = ScheduleConfig("baseline", warmup, decay, start_lr=1e-5, min_lr=2e-5)
    rates = [learning_rate(epoch, 1, epochs, peak, schedule) for epoch in range(epochs)]
    assert all(1e-5 * (1 - 1e-12) <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert all(before < after for before, after in pairwise(rates[: warmup + 1]))
    assert all(before > after for before, after in pairwise(rates[warmup : warmup + decay + 1]))
    assert all(rate == pytest.approx(2e-5) for rate in rates[warmup + decay :])


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


def smooth_rates(name, run):
    schedule = ScheduleConfig(
        name, run["warmup"], start_lr=run["start"] * run["peak"], min_lr=run["floor"] * run["peak"]
    )
    total = run["epochs"] * run["steps"]
    return schedule, [learning_rate(step, run["steps"], run["epochs"], run["peak"], schedule) for step in range(total)]


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@given(run=runs)
@settings(deadline=None, max_examples=100)
def test_smooth_schedules_begin_at_start_lr_peak_after_the_warmup_and_end_at_min_lr(name, run):
    schedule, rates = smooth_rates(name, run)
    top = run["warmup"] * run["steps"]
    if top:
        assert rates[0] == pytest.approx(schedule.start_lr)
    assert rates[top] == pytest.approx(run["peak"])
    if len(rates) - 1 > top:
        assert rates[-1] == pytest.approx(schedule.min_lr, abs=1e-12 * run["peak"])


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@given(run=runs)
@settings(deadline=None, max_examples=100)
def test_smooth_schedules_rise_then_fall_and_stay_between_their_bounds(name, run):
    schedule, rates = smooth_rates(name, run)
    top = run["warmup"] * run["steps"]
    slack = 1e-12 * run["peak"]
    assert all(before <= after + slack for before, after in pairwise(rates[: top + 1]))
    assert all(before >= after - slack for before, after in pairwise(rates[top:]))
    low = min(schedule.start_lr, schedule.min_lr)
    assert all(low - slack <= rate <= run["peak"] + slack for rate in rates)


@pytest.mark.parametrize(("name", "share"), [("cosine", 0.25), ("onecycle", (1 - math.cos(math.pi / 4)) / 2)])
def test_cosine_rises_in_a_line_and_onecycle_in_half_a_cosine(name, share):
    schedule = ScheduleConfig(name, warmup_epochs=4, start_lr=0.2, min_lr=0.0)
    assert learning_rate(10, 10, 8, 1.0, schedule) == pytest.approx(0.2 + 0.8 * share)


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@pytest.mark.parametrize("quarter", range(5))
def test_smooth_schedules_fall_in_half_a_cosine_to_the_last_step(name, quarter):
    schedule = ScheduleConfig(name, warmup_epochs=1, start_lr=0.0, min_lr=0.1)
    expected = 0.1 + 0.9 * (1 + math.cos(math.pi * quarter / 4)) / 2
    # Of 41 + 41 steps the first 41 rise; 40 lie between the peak and the last one.
    assert learning_rate(41 + 10 * quarter, 41, 2, 1.0, schedule) == pytest.approx(expected)
