"""A multi-node SLURM cluster on one machine, with real munged, slurmctld and slurmd daemons.

Each node has its own network namespace, address and host name, so a test can disconnect it.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from limits import LIMIT
from processes import wait_until

NETWORK = "10.77.0"
FINAL_STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")  # of a job
wait_for = partial(wait_until, interval=0.1)  # most conditions start a command of SLURM
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip")


class ClusterUnavailable(Exception):
    """SLURM cannot run here; the message says why."""


def run(*command: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


def run_or_raise(*command: str, **options) -> str:
    done = run(*command, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Cluster:
    """A cluster of nodes n1 to nN. Jobs in partition `high` preempt those in `main`.

    Args:
        folder: directory for keys, configuration, state and logs.
        nodes: number of nodes.
        cpus: number of CPUs that each node reports.

    Raises:
        ClusterUnavailable: a program is missing, or the kernel does not allow network namespaces.
        RuntimeError, AssertionError: another cluster runs on this machine, a daemon exited, or the nodes were not ready
            in time. Everything is cleaned up.
    """

    def __init__(self, folder: Path, nodes: int = 3, cpus: int = 4) -> None:
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise ClusterUnavailable(f"not installed: {', '.join(missing)}")
        self._lock = open(Path(tempfile.gettempdir()) / "regnet-test-cluster.lock", "w")  # noqa: SIM115  # while it lives
        try:  # its network would be removed below, as what a killed test has left
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError("another test run on this machine uses its SLURM cluster") from error
        self.folder, self.nodes, self.cpus = folder, [f"n{number + 1}" for number in range(nodes)], cpus
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        try:
            self._create_network()
        except RuntimeError as error:
            raise ClusterUnavailable(str(error)) from error
        self._write_configuration()
        try:
            self._start()
        except (RuntimeError, AssertionError):
            self.close()
            raise

    # --- the network

    def _create_network(self) -> None:
        self._remove_network()
        run_or_raise("ip", "link", "add", "rgbr0", "type", "bridge")
        run_or_raise("ip", "addr", "add", f"{NETWORK}.254/24", "dev", "rgbr0")
        run_or_raise("ip", "link", "set", "rgbr0", "up")
        hosts = ["127.0.0.1 localhost", f"{NETWORK}.254 {socket.gethostname()}"]
        for number, node in enumerate(self.nodes, start=1):
            run_or_raise("ip", "netns", "add", f"rg-{node}")
            run_or_raise(
                "ip", "link", "add", f"rgv-{node}", "type", "veth", "peer", "name", "eth0", "netns", f"rg-{node}"
            )
            run_or_raise("ip", "link", "set", f"rgv-{node}", "master", "rgbr0", "up")
            run_or_raise("ip", "-n", f"rg-{node}", "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                run_or_raise("ip", "-n", f"rg-{node}", "link", "set", device, "up")
            hosts.append(f"{NETWORK}.{number} {node}")
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")

    def _remove_network(self) -> None:
        for node in re.findall(r"^rg-(n\d+)", run("ip", "netns", "list").stdout, re.MULTILINE):
            run("ip", "link", "del", f"rgv-{node}")  # the kernel would remove it only some time after its namespace
            run("ip", "netns", "del", f"rg-{node}")
        run("ip", "link", "del", "rgbr0")

    def disconnect(self, node: str) -> None:
        run_or_raise("ip", "link", "set", f"rgv-{node}", "down")

    def reconnect(self, node: str) -> None:
        run_or_raise("ip", "link", "set", f"rgv-{node}", "up")

    # --- the daemons

    def _write_configuration(self) -> None:
        for name in ("munge", "state", "log", "spool", "dev"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        user = run_or_raise("id", "-un").strip()
        (self.folder / "slurm.conf").write_text(
            f"""
ClusterName=test
SlurmctldHost={socket.gethostname()}({NETWORK}.254)
SlurmctldPort=17000
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool/%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmctldTimeout=10
SlurmdTimeout=6
InactiveLimit=0
MinJobAge=86400
KillWait=30
MessageTimeout=5
ReturnToService=1
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PropagateResourceLimitsExcept=ALL
MailProg=/bin/true
GresTypes=gpu
NodeName=n[1-{len(self.nodes)}] NodeHostname=n[1-{len(self.nodes)}] NodeAddr={NETWORK}.[1-{len(self.nodes)}] \
Port=17001 Gres=gpu:2 CPUs={self.cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
        )
        # Without this setting slurmd probes for control groups, although nothing here uses them.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for number in range(2):  # fake GPUs, which suffice for scheduling
            (self.folder / "dev" / f"nvidia{number}").symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/dev/nvidia[0-1]\n")

    def _start(self) -> None:
        munge = self.folder / "munge"
        files = [f"--{option}={munge / name}" for option, name in (("key-file", "key"), ("socket", "socket"))]
        files += [f"--pid-file={munge}/pid", f"--log-file={self.folder}/log/munged", f"--seed-file={munge}/seed"]
        self._daemon("munged", "munged", "--foreground", "--force", *files)
        wait_for((munge / "socket").exists, "munged listens")
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        wait_for(self._ready, f"all nodes are idle (see {self.folder}/log)")

    def _ready(self) -> bool:
        """Raises RuntimeError if a daemon has exited, for example because its port is in use."""
        for name, daemon in self.daemons.items():
            if daemon.poll() is not None:
                last = (self.folder / "log" / name).read_text(errors="replace").splitlines()[-1:]
                raise RuntimeError(f"{name} exited: {''.join(last)}")
        return self.states() == {"idle": len(self.nodes)}

    def start_node(self, node: str) -> None:
        script = (
            f"echo {node} > /proc/sys/kernel/hostname; mount --bind {self.folder}/hosts /etc/hosts; "
            f"exec slurmd -D -N {node}"
        )
        self._daemon(node, "ip", "netns", "exec", f"rg-{node}", "unshare", "--uts", "bash", "-c", script)

    def _daemon(self, name: str, *command: str) -> None:
        with open(self.folder / "log" / name, "ab") as log:
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def pids(self, node: str) -> list[int]:
        """All processes on a node."""
        return [int(pid) for pid in run("ip", "netns", "pids", f"rg-{node}").stdout.split()]

    def kill_node(self, node: str) -> None:
        """Simulates a power failure: kills slurmd and everything that it started."""
        for pid in self.pids(node):
            ignore_missing_process(os.kill, pid, signal.SIGKILL)
        self.daemons.pop(node).wait(timeout=LIMIT)

    def close(self) -> None:
        jobs = run("squeue", "-h", "-o", "%A").stdout.split()
        if jobs:
            run("scancel", *jobs)
        for node in self.nodes:
            for pid in self.pids(node):
                ignore_missing_process(os.kill, pid, signal.SIGKILL)
        for daemon in reversed(list(self.daemons.values())):
            ignore_missing_process(os.killpg, daemon.pid, signal.SIGKILL)
            daemon.wait(timeout=LIMIT)
        self._remove_network()
        self._lock.close()

    # --- user commands

    def states(self) -> dict[str, int]:
        """Number of nodes in each state."""
        counts: dict[str, int] = {}
        for state in run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").stdout.split():
            counts[state] = counts.get(state, 0) + 1
        return counts

    def sbatch(self, *arguments: str, cwd: Path, **env: str) -> int:
        command = ["sbatch", "--parsable", *arguments]
        return int(run_or_raise(*command, cwd=cwd, env={**os.environ, **env}).split(";")[0])

    def job(self, number: int | str) -> dict[str, str]:
        """SLURM's fields of a job, or of one job of an array (7_0)."""
        answers: list[subprocess.CompletedProcess[str]] = []

        def answered() -> bool:
            answers.append(run("scontrol", "show", "job", "-o", str(number)))
            return re.search("timed out|Unable to contact", answers[-1].stderr) is None

        wait_for(answered, f"the controller has time to show job {number}")
        return dict(re.findall(r"(\w+)=(\S*)", answers[-1].stdout))


def ignore_missing_process(call, *arguments) -> None:
    """Calls a function on a process that may have exited already."""
    with contextlib.suppress(ProcessLookupError):
        call(*arguments)
