"""Connecting to the rendezvous store ends in time, with the reason, whatever MASTER_ADDR and MASTER_PORT name."""

import socket

import pytest
from fork_server import free_port
from processes import PYTHON, run, trainer

from regnet.distributed.launcher import Launch
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.rendezvous import RendezvousDeadline, open_store


def connect(rank, address, port):
    """A rank's connection to a store, for which it waits half a second."""
    return open_store(Launch(2, rank, rank, address, port), RendezvousDeadline(0.5, PreemptionNotice()))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_does_not_resolve_is_waited_for_and_named(monkeypatch, rank):
    """Also by rank 0, which hosts the store: TCPStore would wait for five minutes. DNS may only be late."""

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(TimeoutError, match=r"at a\.\.b:80 \(encoding with 'idna' codec failed"):
        connect(rank, "a..b", 80)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TimeoutError, match=r"waited 0\.5 s for .* at node1:80 \(Name or service not known\)"):
        connect(rank, "node1", 80)


def test_a_connection_of_a_rank_to_itself_is_not_one_to_the_store(monkeypatch):
    """It happens if nobody listens at a port from which the kernel lets programs connect."""
    create = socket.create_connection

    def to_itself(_, timeout):
        address = "127.0.0.1", int(free_port())
        return create(address, timeout, source_address=address)

    monkeypatch.setattr(socket, "create_connection", to_itself)
    with pytest.raises(TimeoutError, match=r"the rendezvous store at 127\.0\.0\.1:1 \(Connection refused\)"):
        connect(1, "127.0.0.1", 1)


def test_another_program_at_the_port_does_not_block_a_rank():
    """It accepts connections and never answers, as many servers do; TCPStore would wait for it without a limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TimeoutError, match=f"an answer from .* at 127.0.0.1:{port}: another program may use this"):
            connect(1, "127.0.0.1", port)
        while True:  # ends the thread that still waits
            server.settimeout(0.2)
            try:
                server.accept()[0].close()
            except TimeoutError:
                break


def test_a_port_in_use_is_named(shards, tmp_path):
    rank_zero = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = run(trainer(tmp_path, shards, launcher=PYTHON), MASTER_PORT=port, **rank_zero)
    assert done.returncode == 1
    assert done.stderr.startswith(f"failed (rank 0): rendezvous failed: another program uses port {port} of ")
    assert done.stderr.endswith("; set another MASTER_PORT on all ranks\n")


def test_an_unknown_network_interface_is_named(shards, tmp_path):
    done = run(trainer(tmp_path, shards, processes=2), GLOO_SOCKET_IFNAME="none0")
    assert done.returncode == 1
    cure = "reachable from every node, and that GLOO_SOCKET_IFNAME=none0 is an interface of this node"
    lines = sorted(done.stderr.splitlines())
    assert [line.partition(":")[0] for line in lines] == ["failed (rank 0)", "failed (rank 1)"], done.stderr
    assert all(line.endswith(cure) for line in lines)
