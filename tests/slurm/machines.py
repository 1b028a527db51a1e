"""A small Slurm cluster on one machine: every node has network, processes, host name and /tmp/ray of its own.

Each machine is a set of namespaces on a bridge; the killed init of a machine takes all its processes along, like a
power cut. Needs root, iproute2 and slurm-wlm. No munge, cgroups or systemd: authentication is off, and nothing listens
outside the bridge.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NET = "10.78.0"
CONF = """
ClusterName=p2ptest
SlurmctldHost={ctl}({net}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={home}/task_prolog
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=50000,bf_interval=1,requeue_delay=1
ReturnToService=1
SlurmctldPidFile={home}/slurmctld.pidfile
SlurmctldLogFile={home}/slurmctld.log
StateSaveLocation={home}/state
SlurmdPidFile={home}/%n.pidfile
SlurmdLogFile={home}/%n.log
SlurmdSpoolDir={home}/spool.%n
SlurmdParameters=config_overrides
KillWait=20
MinJobAge=3600
SlurmdTimeout=6
"""
INIT = """
hostname "$0"; mkdir -p /tmp/ray
mount -t tmpfs -o size=1g tmpfs /tmp/ray; mount -t tmpfs -o size=1g tmpfs /dev/shm
"$@" & child=$!
while kill -0 $child 2>/dev/null; do wait $child; done
"""


def missing() -> str:
    """Reason why there can be no cluster here, or nothing."""
    if os.geteuid() != 0:
        return "needs root for namespaces"
    for program in ("slurmctld", "slurmd", "sbatch", "ip", "unshare"):
        if shutil.which(program) is None:
            return f"no {program} (apt-get install slurm-wlm iproute2)"
    probe = subprocess.run(["ip", "netns", "add", "p2pprobe"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return f"no network namespaces here: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "p2pprobe"], check=True)
    return ""


class Machines:
    """The controller `p2pc` and nodes `p2p1`, `p2p2`, ... Use as a context manager."""

    def __init__(self, home: Path, nodes: int = 2, cpus: int = 2):
        self.home, self.control = home, "p2pc"
        self.nodes = [f"p2p{at}" for at in range(1, nodes + 1)]
        self.cpus = cpus
        self.inits: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(home / "slurm.conf"), "HOME": str(home / "user")}

    def __enter__(self) -> "Machines":
        for folder in ("state", "user", *(f"spool.{node}" for node in self.nodes)):
            (self.home / folder).mkdir(parents=True)
        lines = [
            f"NodeName={node} NodeAddr={NET}.1{at} CPUs={self.cpus} RealMemory=6000"
            for at, node in enumerate(self.nodes, 1)
        ]
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (self.home / "slurm.conf").write_text(
            CONF.format(ctl=self.control, net=NET, home=self.home) + "\n".join(lines) + "\n"
        )
        (self.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        scratch = self.home / "a_scratch_folder_of_the_job_with_a_long_name" / "as_many_sites_have_them"
        scratch.mkdir(parents=True)
        (self.home / "task_prolog").write_text(f"#!/bin/sh\necho export TMPDIR={scratch}\n")
        (self.home / "task_prolog").chmod(0o755)
        try:
            self._network()
            self.start_control()
            for node in self.nodes:
                self.start(node)
            wait_for(lambda: self.ctl("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(self.nodes), 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self.nodes, self.control]:
            self.cut_power(name)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)

    def ctl(self, *call: str, check: bool = False) -> str:
        """Run a command beside the controller and return what it says."""
        done = self.call(*call)
        if check and done.returncode != 0:
            raise RuntimeError(f"{call}: {done.stderr}")
        return done.stdout.strip()

    def call(self, *call: str, seconds: float = 20) -> subprocess.CompletedProcess[str]:
        line = ["ip", "netns", "exec", self.control, "timeout", str(seconds), *call]
        return subprocess.run(
            line, capture_output=True, text=True, check=False, env=self.environment, cwd=self.home / "user"
        )

    def job(self, number: str) -> dict[str, str]:
        """Fields of `scontrol show job`, of the first task of an array."""
        said = self.ctl("scontrol", "--oneliner", "show", "job", number).splitlines()
        return dict(part.split("=", 1) for part in said[0].split() if "=" in part) if said else {}

    def states(self, number: str) -> list[str]:
        """States of a job, or of every task of an array."""
        said = self.ctl("scontrol", "--oneliner", "show", "job", number).splitlines()
        return [dict(part.split("=", 1) for part in line.split() if "=" in part)["JobState"] for line in said]

    def start_control(self) -> None:
        self._boot(self.control, "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        wait_for(lambda: "p2p" in self.ctl("sinfo", "-h", "-N"), 60)

    def start(self, node: str) -> None:
        """Boot a machine, or boot it again."""
        self._boot(node, "slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"])

    def cut_power(self, name: str) -> None:
        """Every process of the machine is gone at once."""
        if init := self.inits.pop(name, None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(init.pid, signal.SIGKILL)
            init.wait()

    def _boot(self, name: str, *daemon: str) -> None:
        own = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--mount-proc",
            "--uts",
            "--ipc",
            "--propagation",
            "private",
        ]
        line = ["ip", "netns", "exec", name, *own, "bash", "-c", INIT, name, *daemon]
        with (self.home / f"{name}.out").open("ab") as out:
            self.inits[name] = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                start_new_session=True,
                cwd=self.home / "user",
            )

    def _network(self) -> None:
        addresses = {self.control: f"{NET}.1", **{node: f"{NET}.1{at}" for at, node in enumerate(self.nodes, 1)}}
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
        for name in addresses:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            own = Path("/etc/netns") / name
            own.mkdir(parents=True, exist_ok=True)
            (own / "hosts").write_text(hosts)
            (own / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            (own / "nsswitch.conf").write_text(
                "passwd: files\ngroup: files\nhosts: files\n"
            )  # or each look-up waits for DNS
        _ip("-n", self.control, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.control, "addr", "add", f"{NET}.1/24", "dev", "br0")
        _ip("-n", self.control, "link", "set", "br0", "up")
        for at, node in enumerate(self.nodes):
            _ip("-n", self.control, "link", "add", f"v{at}", "type", "veth", "peer", "name", "eth0", "netns", node)
            _ip("-n", self.control, "link", "set", f"v{at}", "master", "br0", "up")
            _ip("-n", node, "addr", "add", f"{addresses[node]}/24", "dev", "eth0")
            _ip("-n", node, "link", "set", "eth0", "up")
            _ip("-n", node, "route", "add", "default", "via", f"{NET}.1")


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


def _ip(*call: str) -> None:
    subprocess.run(["ip", *call], check=True, capture_output=True)
