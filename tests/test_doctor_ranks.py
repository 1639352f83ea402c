"""python -m regnet.doctor on several ranks: launches, nodes, ranks that die, and the devices that processes share."""

import socket
import subprocess

import pytest
from doctor_command import copy_with_damage, doctor_command, failed_checks, printed_findings
from fork_server import free_port
from limits import LIMIT, scaled
from processes import PYTHON, TORCHRUN, kill_group, run, start
from thoroughness import parametrize_some

from regnet.doctor.communication import ProcessInfo, check_launch, check_placement, reports_device
from regnet.doctor.findings import Severity, fail, merge, ok


def rank_environment(number, port):
    """The environment of one of two ranks, as srun without torchrun sets it."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", **address}


def test_two_ranks_exchange_data_and_only_rank_zero_prints(shards, tmp_path):
    done = run(doctor_command(tmp_path, shards, "--json", start=(*TORCHRUN, "--nproc_per_node=2")))
    found = printed_findings(done)
    assert done.returncode == 0, done.stderr
    assert "2 processes on this node" in found["GPUs"]["message"]
    assert "48 of 96 images per process" in found["batches"]["message"]
    measured = found["all-reduce"]["measured"]
    assert measured["bytes"] == 4 * 10_764, "4 bytes for each parameter"
    assert 0 < measured["small_seconds"] < 5
    assert measured["bytes_per_second"] == pytest.approx(measured["bytes"] / measured["seconds"])
    assert "gloo, 2 processes: one number takes" in found["all-reduce"]["message"]
    assert found["ranks"]["measured"] == {"processes": 2, "nodes": 1}
    assert not any(finding["hosts"] for finding in found.values())


def test_findings_that_differ_between_nodes_name_their_nodes(shards, tmp_path):
    unshare = ("unshare", "--uts", "sh", "-c", 'hostname far-away && exec "$@"', "sh")
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=LIMIT).returncode != 0:
        pytest.skip("changing the host name requires root, and a container that permits it")
    file, port = copy_with_damage(shards, tmp_path / "there"), free_port()
    far = start(
        doctor_command(tmp_path, file.parent, start=(*unshare, *PYTHON)),
        **rank_environment(1, port),
        GLOO_SOCKET_IFNAME="lo",
    )
    try:
        found = printed_findings(
            run(doctor_command(tmp_path, shards, "--json"), **rank_environment(0, port), GLOO_SOCKET_IFNAME="lo")
        )
        out, err = far.communicate(timeout=LIMIT)
    finally:
        kill_group(far)
    assert far.returncode == 1, err
    assert out == "", "only rank zero prints"
    assert failed_checks(found) == {"shards"}
    assert found["shards"]["hosts"] == ["far-away"]
    assert str(file) in found["shards"]["message"]
    assert found["FFCV"]["hosts"] == []
    assert found["ranks"]["measured"] == {"processes": 2, "nodes": 2}


def test_a_rank_that_does_not_start_is_reported(shards, tmp_path):
    flags = ("--distributed.timeout", 3, "--json")
    other = start(doctor_command(tmp_path, shards, *flags), **rank_environment(1, free_port()))
    try:
        found = printed_findings(run(doctor_command(tmp_path, shards, *flags), **rank_environment(0, free_port())))
        out, err = other.communicate(timeout=LIMIT)
    finally:
        kill_group(other)
    assert failed_checks(found) == {"ranks"}
    assert "rendezvous failed" in found["ranks"]["message"]
    assert "WORLD_SIZE" in found["ranks"]["fix"]
    assert found["checkpoint"]["severity"] == "ok", "checks that need one process only are done"
    assert (other.returncode, out) == (1, "")
    assert "failed (rank 1): rendezvous failed" in err


def findings_with_fault(shards, tmp_path, fault, *flags):
    """What rank zero prints if rank one runs the statement `fault` first."""
    port, flags = free_port(), (*flags, "--json")
    imports = "import os, signal, sys, torch.distributed as dist, regnet.doctor.command as c"
    program = [*PYTHON, "-c", f"{imports}; {fault}; c.main(sys.argv[3:], 0)"]
    far = start([*program, *doctor_command(tmp_path, shards, *flags, start=PYTHON)[1:]], **rank_environment(1, port))
    try:
        return printed_findings(run(doctor_command(tmp_path, shards, *flags), **rank_environment(0, port)))
    finally:
        kill_group(far)


def test_a_wrong_sum_names_rank_and_node(shards, tmp_path):
    wrong = "sum = dist.all_reduce; dist.all_reduce = lambda tensor, group: (sum(tensor, group=group), tensor.add_(1))"
    found = findings_with_fault(shards, tmp_path, wrong)
    assert failed_checks(found) == {"all-reduce"}
    assert found["all-reduce"]["message"] == f"wrong sum on rank 1 on {socket.gethostname()}"
    assert "exclude the node" in found["all-reduce"]["fix"]


@parametrize_some("how", ["SIGKILL", "SIGSTOP"])
def test_a_rank_that_dies_or_hangs_is_reported_with_the_other_findings(shards, tmp_path, how):
    fault, timeout = f"c.check_device = lambda *_: os.kill(0, signal.{how})", scaled(4)
    found = findings_with_fault(shards, tmp_path, fault, "--distributed.heartbeat_timeout", timeout)
    assert failed_checks(found) == {"ranks"}
    assert found["ranks"]["message"].startswith("rank 1 stopped responding")
    assert found["shards"]["severity"] == "ok"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun has started several processes"),
    ],
)
def test_invalid_launch_variables_fail(env, words):
    (finding,) = check_launch(env)
    assert finding.severity is Severity.fail
    assert words in finding.message
    assert finding.fix
    assert check_launch({}) == check_launch(rank_environment(1, "80")) == []


def test_a_rank_with_invalid_launch_variables_reports_what_one_process_can_check(shards, tmp_path):
    invalid = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": ""}
    found = printed_findings(run(doctor_command(tmp_path, shards, "--train.device", "auto", "--json"), **invalid))
    assert failed_checks(found) == {"launch"}
    assert list(found)[-1] == "launch"
    assert found["checkpoint"]["severity"] == "ok"
    assert found["device"]["message"] == "cpu (train.device: auto, no GPU available to PyTorch)"


def process_infos(*infos):
    return [ProcessInfo(host, rank, 0, device, gpu) for rank, (host, device, gpu) in enumerate(infos)]


def test_one_process_per_node_and_type_of_device_reports_its_device():
    several = process_infos(("a", "cuda", "x"), ("a", "", ""), ("a", "", ""), ("b", "", ""), ("a", "cuda", "y"))
    assert [reports_device(process, several) for process in several] == [True, True, False, True, False]


def test_processes_with_different_devices_or_a_shared_gpu_fail():
    separate = process_infos(("a", "cuda", "x"), ("a", "cuda", "y"), ("b", "cuda", "x"))
    assert check_placement(separate)[0].message == "3 processes: 2 on a, 1 on b"
    (mixed,) = check_placement(process_infos(("a", "cuda", "x"), ("b", "cpu", "")))
    assert mixed.severity is Severity.fail
    assert "exclude b" in mixed.fix
    (shared,) = check_placement(process_infos(("a", "cuda", "x"), ("a", "cuda", "x")))
    assert "2 processes on a have the same GPU" in shared.message
    assert "LOCAL_RANK" in shared.fix


def test_findings_of_nodes_are_merged():
    same, other = ok("a", "as expected", seconds=1), fail("a", "different", "repair it")
    assert merge([("x", [same]), ("y", [ok("a", "as expected", seconds=2)])]) == [same]
    one, two = merge([("x", [same]), ("y", [other]), ("z", [same])])
    assert (one.hosts, two.hosts) == (("x", "z"), ("y",))
    assert merge([("x", [same]), ("x", [other])]) == [same, other]
    assert [finding.hosts for finding in merge([("x", [same, same]), ("y", [])])] == [("x",)]
