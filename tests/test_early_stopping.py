"""Early stopping: when a run ends before its last epoch."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import needs_baseline_data, read_baseline_table
from thoroughness import examples

from regnet.training.early_stopping import EarlyStopping

# A few common values, so that ties are frequent, and any other floats.
values = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf]), st.floats()), max_size=30)
modes = pytest.mark.parametrize("mode", ["min", "max"])


def is_improvement(history, mode):
    """Whether the last value is strictly better than all before it."""
    *before, last = history
    if math.isnan(last):
        return False
    return all(math.isnan(old) or (last < old if mode == "min" else last > old) for old in before)


@modes
@given(values=values, patience=st.integers(0, 6))
@examples(300)
def test_early_stopping_agrees_with_a_search_through_all_previous_values(mode, values, patience):
    stopping = EarlyStopping(patience, mode)
    epochs_without_improvement = 0
    for length, value in enumerate(values, start=1):
        expected = is_improvement(values[:length], mode)
        epochs_without_improvement = 0 if expected else epochs_without_improvement + 1
        assert stopping.update(value) is expected
        assert stopping.stale == epochs_without_improvement
        assert stopping.should_stop == (patience > 0 and epochs_without_improvement >= patience)
    numbers = [value for value in values if not math.isnan(value)]
    assert stopping.best == ((min if mode == "min" else max)(numbers) if numbers else None)


@modes
def test_nan_never_improves(mode):
    stopping = EarlyStopping(3, mode)
    assert [stopping.update(value) for value in (math.nan, 1.0, math.nan, math.nan)] == [False, True, False, False]
    assert not stopping.should_stop
    assert not stopping.update(math.nan)
    assert stopping.should_stop
    assert stopping.best == 1.0


@modes
def test_patience_of_zero_never_stops(mode):
    stopping = EarlyStopping(0, mode)
    for _ in range(1000):
        stopping.update(1.0)
        assert not stopping.should_stop


@needs_baseline_data
@pytest.mark.parametrize(("patience", "stops_at"), [(5, None), (1, 26)])
def test_the_logged_losses_of_the_baseline_stop_it_at_the_known_epoch(patience, stops_at):
    stopping = EarlyStopping(patience, "min")
    stops = []
    for row in read_baseline_table("training_log.csv"):
        stopping.update(float(row["avg_loss_per_sample"]))
        if stopping.should_stop:
            stops.append(int(row["epoch"]))
    assert (stops[0] if stops else None) == stops_at
