"""Clusters of several nodes in the scaling model, and python -m benchmarks.scaling.predict."""

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples

from benchmarks.scaling.analyse import links_of
from benchmarks.scaling.model import Cluster, Link, all_reduce, flag_exchange, gather, ring, tree
from benchmarks.scaling.predict import main, parser, predict, setup_of
from regnet.distributed.shared_flags import MAX_INTERVAL

LOCAL, NETWORK = Link(1e-6, 1e-11), Link(1e-5, 2e-11)
one_link = st.builds(Link, latency=st.floats(1e-7, 1e-2), per_byte=st.floats(1e-12, 1e-7))
many = examples(200)
sizes, counts = st.integers(1, 10**9), st.integers(2, 5000)


@many
@given(size=sizes, processes=counts, local=one_link, network=one_link, more=st.integers(0, 16))
def test_processes_of_one_node_do_not_use_the_network(size, processes, local, network, more):
    cluster = Cluster(local, network, per_node=processes + more)
    for collective in (all_reduce, gather):
        assert collective(size, processes, cluster) == collective(size, processes, Cluster(local))


@many
@given(size=sizes, processes=counts, link=one_link, per_node=st.integers(1, 16))
def test_a_network_as_fast_as_a_node_makes_no_difference_to_a_ring(size, processes, link, per_node):
    assert ring(size, processes, Cluster(link, link, per_node)) == pytest.approx(ring(size, processes, Cluster(link)))


@many
@given(size=sizes, processes=counts, local=one_link, network=one_link, per_node=st.integers(1, 16))
def test_the_faster_of_ring_and_tree_is_used_and_moves_every_byte_twice(size, processes, local, network, per_node):
    cluster = Cluster(local, network, per_node, start=1e-5)
    seconds = all_reduce(size, processes, cluster)
    assert seconds <= ring(size, processes, cluster)
    assert seconds >= 1e-5 + 2 * (processes - 1) / processes * size * local.per_byte
    if processes > per_node:
        assert seconds <= tree(size, processes, cluster)


def test_a_ring_and_a_tree_of_four_nodes_follow_the_formulas():
    cluster = Cluster(LOCAL, NETWORK, per_node=8, start=1e-6)
    latency = 2 * (28 * 1e-6 + 3 * 1e-5)
    assert ring(10**6, 32, cluster) == pytest.approx(1e-6 + latency + 2 * 31 / 32 * 10**6 * 2e-11)
    assert tree(10**6, 32, cluster) == pytest.approx(1e-6 + 2 * (7 * 1e-6 + log2(4) * 1e-5) + 2 * 10**6 * 2e-11)


def test_short_steps_share_an_exchange_of_flags():
    host = Cluster(Link(3e-5, 1e-9))
    assert flag_exchange(0.5, 64, host) == pytest.approx(ring(24, 64, host))
    assert flag_exchange(0.001, 64, host) == pytest.approx(ring(24, 64, host) / MAX_INTERVAL)


def test_options_of_the_network_default_to_the_links_of_a_node():
    options = {"latency": 2.0, "bandwidth": 100.0, "per_node": None, "network_latency": None, "network_bandwidth": None}
    assert links_of(None, {**options, "latency": None}) is None
    assert links_of(None, options) == Cluster(Link(2e-6, 1e-11))
    assert links_of(LOCAL, {**options, "per_node": 8, "network_latency": 9.0}) == Cluster(
        Link(2e-6, 1e-11), Link(9e-6, 1e-11), 8
    )


REQUIRED = ["--step-ms", "6.93", "--batch-size", "250"]


def options_of(*more):
    return vars(parser().parse_args([*REQUIRED, *more]))


@many
@given(gpus=st.integers(1, 4096))
def test_predicted_steps_take_longer_than_those_of_one_gpu(gpus):
    row = predict(setup_of(options_of()), gpus)
    assert row["weak"]["step"] >= 0.00693 - 1e-12
    assert row["weak"]["efficiency"] <= 1 + 1e-9
    if row["strong"]:
        assert row["strong"]["step"] >= 0.0025
        assert row["strong"]["efficiency"] <= row["weak"]["efficiency"] + 1e-9
        assert row["strong"]["flags"] <= row["strong"]["step"]


def test_one_gpu_takes_the_given_time_of_a_step():
    row = predict(setup_of(options_of()), 1)
    assert row["weak"] == row["strong"]
    assert row["weak"]["step"] == pytest.approx(0.00693)
    assert (row["weak"]["efficiency"], row["weak"]["flags"]) == (pytest.approx(1), 0)


def test_an_exchange_of_flags_that_takes_longer_than_the_steps_delays_them():
    row = predict(setup_of(options_of("--host-latency", "2000")), 256)
    assert row["weak"]["step"] == row["weak"]["flags"] > 0.01


def test_the_command_prints_tables_of_80_columns_that_say_predicted(capsys):
    assert main(REQUIRED) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "PREDICTED, not measured."
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("│  256") for line in lines) == 1, "strong scaling would have less than two images each"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latency", "-1"], "--latency -1.0: must be a positive number"),
        (["--step-ms", "nan"], "--step-ms nan: must be a positive number"),
        (["--empty-step-ms", "7"], "--empty-step-ms 7: must be at most --step-ms, got 6.93"),
    ],
)
def test_impossible_options_are_reported_in_one_line(capsys, arguments, message):
    assert main([*REQUIRED, *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("gpus", ["8,x", "0", ""])
def test_numbers_of_gpus_are_checked(capsys, gpus):
    with pytest.raises(SystemExit) as raised:
        main([*REQUIRED, "--gpus", gpus])
    assert raised.value.code == 2
    assert "--gpus" in capsys.readouterr().err
