"""A real SLURM of two nodes on this machine, started by the tests and gone with them.

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge (their slurmd is built with
multiple-slurmd). Where they are missing, tests that need them are skipped within a moment, unless
``DSTBENCH_TEST_SLURM=install`` asks for them to be installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dstbench.runner.execution.descendants import die_with

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "munged", "munge")
NODES = ("node1", "node2")
PATIENCE = 60.0
"""Seconds that anything may take here before a test gives up on it."""

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
ReturnToService=2
SlurmdTimeout=10
KillWait={kill_wait}
BatchStartTimeout=10
MinJobAge=300
MaxArraySize=1001
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs={cpus} RealMemory=4000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime={grace} State=UP
PartitionName=urgent Nodes=node[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
"""


@dataclass
class SlurmCluster:
    """The cluster's daemons, and its commands."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self, *, cpus: int = 1, kill_wait: int = 5, grace: int = 0) -> None:
        """Start munge, the controller and both nodes, and wait for the nodes to be idle."""
        controller, node1, node2 = _free_ports(3)
        host = socket.gethostname().partition(".")[0]
        text = _CONFIGURATION.format(
            host=host, controller=controller, node1=node1, node2=node2, folder=self.folder, cpus=cpus,
            kill_wait=kill_wait, grace=grace,
        )  # fmt: skip
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "slurm.conf").write_text(text)
        self._start_munge()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: set(self("sinfo", "-N", "-h", "-t", "idle", "-o", "%N").split()) == set(NODES))

    def start_controller(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D")

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node)

    def kill(self, daemon: str) -> None:
        """End a daemon as a power cut does."""
        self.daemons[daemon].kill()
        self.daemons.pop(daemon).wait()

    def __call__(self, *command: str, check: bool = True) -> str:
        """What a command of the cluster prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self, form: str = "%F_%K %T %N") -> list[str]:
        """A line for each task of each job that waits or runs."""
        return self("squeue", "-h", "-r", "-o", form).splitlines()

    def wait(self, done: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Until something is so; a command that fails meanwhile says that it isn't yet."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):
                if done():
                    return
            assert time.monotonic() < until, self.words()
            time.sleep(0.1)

    def words(self) -> str:
        """What the daemons said last."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def clear(self) -> None:
        """End all jobs, and have both nodes up."""
        self("scancel", "-u", str(os.getuid()))
        for node in NODES:
            self("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.wait(lambda: not self.jobs())

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        with contextlib.suppress(Exception):
            self.clear()
        for name in reversed(list(self.daemons)):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start_munge(self) -> None:
        """One of our own, with a key of its own: the system's, if there is one, is left alone."""
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(os.urandom(128))
        options = {
            "socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed",
        }  # fmt: skip
        self._daemon("munge", "munged", "-F", "-f", *(f"--{o}={folder / n}" for o, n in options.items()))
        self.wait((folder / "socket").exists)

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        us, command = os.getpid(), (shutil.which(program, path=_PATH) or program, *arguments)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, preexec_fn=lambda: die_with(us),
            )  # fmt: skip


def require_slurm() -> None:
    """Skip the test where there is no SLURM to start."""
    if hasattr(os, "getuid") and os.getuid() == 0 and os.environ.get("DSTBENCH_TEST_SLURM") == "install":
        _install()
    missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        pytest.skip(
            f"no SLURM to start: {', '.join(missing)} not installed; as root, DSTBENCH_TEST_SLURM=install "
            f"gets them by apt-get ({', '.join(PACKAGES)})"
        )
    if os.getuid() != 0:
        pytest.skip("no SLURM to start: its daemons need root")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Two nodes of one processor each, which all tests of a process share."""
    require_slurm()
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _install() -> None:
    if all(shutil.which(program, path=_PATH) for program in PROGRAMS) or shutil.which("apt-get") is None:
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update"], env=quiet, check=False, capture_output=True, timeout=300)
    wanted = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run(wanted, env=quiet, check=False, capture_output=True, timeout=600)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
