"""A real Slurm of a few simulated hosts on this machine, for tests and for trying things out.

    sudo .venv/bin/python tests/slurm_cluster.py [--nodes 2] [--cpus 2] -- COMMAND...

starts munged, slurmctld and one slurmd for each host, runs COMMAND (a shell, if none is given) on the login host, and
takes everything down again. Every host is a set of namespaces: network (an address on a bridge that leads nowhere
else), process ids, host name and mounts. Files are those of this machine, but for SCRATCH, which each host has alone.
Killing the first process of a host is the crash of a node. Needs root and Debian's slurm-wlm, munge, iproute2,
util-linux.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

LOGIN = "login"
PROGRAMS = ("slurmctld", "slurmd", "munged", "mungekey", "ip", "unshare", "nsenter", "setpriv")
_SUBNET = "10.77.0"
_READY_SECONDS = 120


class SlurmCluster:
    """Hosts n1, n2, ... and the login host, from `__enter__` to `__exit__`."""

    def __init__(self, num_nodes: int = 2, cpus: int = 2) -> None:
        self.nodes = [f"n{number}" for number in range(1, num_nodes + 1)]
        self.cpus = cpus
        self.root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.scratch = self.root / "scratch"  # another folder on every host
        self._hosts: dict[str, int] = {}  # host -> its first process, as seen from here
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need."""
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def __enter__(self) -> "SlurmCluster":
        self.root.chmod(0o755)
        for folder in ("state", "spool", "log", "scratch", "munge"):
            (self.root / folder).mkdir()
        try:
            self._start_munge()
            self._write_configuration()
            for number, host in enumerate([LOGIN, *self.nodes]):
                self._start_host(host, f"{_SUBNET}.{number + 1}")
            self._start_daemon(LOGIN, ["slurmctld", "-D", "-f", str(self.root / "slurm.conf")])
            for node in self.nodes:
                self.start_slurmd(node)
            self._await_idle()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in (*self.nodes, LOGIN):
            self.crash(host)
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def command(self, host: str, *command: str) -> list[str]:
        """Return what runs a command on a host."""
        enter = ["nsenter", "--target", str(self._hosts[host]), "--net", "--uts", "--mount", "--pid"]
        return [*enter, f"--wd={Path.cwd()}", "--", *command]

    def run(self, *command: str, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host and wait for it."""
        environment = {**os.environ, **self.environment}
        folder = ["env", f"--chdir={cwd or Path.cwd()}"]
        return subprocess.run(
            self.command(LOGIN, *folder, *command),
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def crash(self, host: str) -> None:
        """Kill the first process of a host, and with it all others."""
        pid = self._hosts.pop(host, None)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def restart(self, node: str) -> None:
        """Bring a crashed node back, its own folder empty."""
        shutil.rmtree(self.root / "log" / f"scratch-{node}")
        self._start_host(node, f"{_SUBNET}.{self.nodes.index(node) + 2}")
        self.start_slurmd(node)
        self._await_idle(node)

    def start_slurmd(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start_daemon(node, ["slurmd", "-D", "-N", node, "-f", str(self.root / "slurm.conf")])

    def _start_munge(self) -> None:
        key, log = self.root / "munge" / "key", self.root / "log" / "munged"
        self._call("mungekey", "--create", f"--keyfile={key}")
        (self.root / "munge").chmod(0o755)
        options = [f"--key-file={key}", f"--socket={self.root}/munge/socket", f"--pid-file={self.root}/munge/pid"]
        options += [f"--seed-file={self.root}/munge/seed", f"--log-file={log}", "--foreground", "--force"]
        self._processes.append(self._spawn(["munged", *options], "munged"))
        self._await((self.root / "munge" / "socket").exists, "munged")

    def _start_host(self, host: str, address: str) -> None:
        scratch = self.root / "log" / f"scratch-{host}"
        scratch.mkdir()
        setup = (
            f'mount --bind "{self.root}/hosts" /etc/hosts; mount --bind "{scratch}" "{self.scratch}";'
            f"hostname {host}; ip link set lo up; exec sleep infinity"
        )
        namespaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        process = self._spawn(["unshare", *namespaces, "bash", "-c", setup], f"host-{host}")
        self._processes.append(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        self._await(lambda: children.read_text().split() != [], host)
        pid = int(children.read_text().split()[0])
        self._hosts[host] = pid
        self._await(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), host)
        if host == LOGIN:
            self._ip(host, "link add br0 type bridge")
            self._ip(host, f"addr add {address}/24 dev br0")
            self._ip(host, "link set br0 up")
            return
        self._ip(LOGIN, f"link add v-{host} type veth peer name eth0 netns {pid}")
        self._ip(LOGIN, f"link set v-{host} master br0 up")
        self._ip(host, f"addr add {address}/24 dev eth0")
        self._ip(host, "link set eth0 up")

    def _ip(self, host: str, arguments: str) -> None:
        # A pid means something only outside; so the network alone is entered.
        enter = ["nsenter", "--target", str(self._hosts[host]), "--net", "--"]
        self._call(*enter, "ip", *arguments.split())

    def _start_daemon(self, host: str, command: list[str]) -> None:
        self._processes.append(self._spawn(self.command(host, *command), f"{command[0]}-{host}"))

    def _spawn(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.root / "log" / f"{name}.out").open("wb") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],  # nothing outlives a test that is killed
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )

    def _call(self, *command: str) -> None:
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

    def _await_idle(self, *nodes: str) -> None:
        nodes = nodes or tuple(self.nodes)

        def idle() -> bool:
            flags = ["--noheader", "--Node", "--partition=main", "--format=%t", f"--nodes={','.join(nodes)}"]
            return self.run("sinfo", *flags).stdout.split() == ["idle"] * len(nodes)

        self._await(idle, "slurmctld")

    def _await(self, is_ready: object, what: str) -> None:
        assert callable(is_ready)
        deadline = time.monotonic() + _READY_SECONDS
        while not is_ready():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{p.name}: {p.read_text()[-500:]}" for p in (self.root / "log").glob("*.out"))
                raise RuntimeError(f"{what} did not start\n{logs}")
            time.sleep(0.05)

    def _write_configuration(self) -> None:
        hosts = ["127.0.0.1 localhost"]
        hosts += [f"{_SUBNET}.{number + 1} {host}" for number, host in enumerate([LOGIN, *self.nodes])]
        (self.root / "hosts").write_text("\n".join(hosts) + "\n")
        root, nodes = self.root, ",".join(self.nodes)
        settings = {
            "ClusterName": "simulated",
            "SlurmctldHost": f"{LOGIN}({_SUBNET}.1)",
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={root}/munge/socket,cred_expire=5",  # how long a requeued job waits
            "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
            "StateSaveLocation": f"{root}/state",
            "SlurmdSpoolDir": f"{root}/spool/%n",
            "SlurmctldPidFile": f"{root}/slurmctld.pid",
            "SlurmdPidFile": f"{root}/slurmd-%n.pid",
            "SlurmctldLogFile": f"{root}/log/slurmctld",
            "SlurmdLogFile": f"{root}/log/slurmd-%n",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "JobRequeue": "1",
            "ReturnToService": "2",
            "KillWait": "5",
            "SlurmdTimeout": "30",
            "SlurmdParameters": "config_overrides",
            "PropagateResourceLimits": "NONE",
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        for number, node in enumerate(self.nodes):
            address = f"{_SUBNET}.{number + 2}"
            lines.append(f"NodeName={node} NodeHostname={node} NodeAddr={address} CPUs={self.cpus} RealMemory=4000")
        lines.append(f"PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP PriorityTier=1")
        lines.append(f"PartitionName=urgent Nodes={nodes} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF")
        (self.root / "slurm.conf").write_text("\n".join(lines) + "\n")


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "needs root for namespaces"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge iproute2 util-linux)"
    probe = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], check=False)
    return "namespaces are not allowed here" if probe.returncode else None


def install() -> None:
    """Install what is missing with apt-get, where root may; whoever calls looks at `missing` afterwards."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    packages = ["slurm-wlm", "munge", "iproute2", "util-linux"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *command], check=False, env=environment, capture_output=True, timeout=300)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("command", nargs="*", default=["bash"])
    given = parser.parse_args()
    reason = missing()
    if reason:
        sys.exit(reason)
    with SlurmCluster(given.nodes, given.cpus) as cluster:
        status = subprocess.call(cluster.command(LOGIN, *given.command), env={**os.environ, **cluster.environment})
    sys.exit(status)
