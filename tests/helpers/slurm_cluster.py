"""A temporary SLURM cluster on this host.

The tests start one. By hand, ``python tests/helpers/slurm_cluster.py`` runs one until Ctrl-C and prints how to reach
it. On Debian it needs ``apt-get install slurmctld slurmd slurm-client munge``, and root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge"
# A node's name becomes MASTER_ADDR and must resolve: addresses do so without an entry in the hosts file.
NODES = ("127.0.0.2", "127.0.0.3")
ROOT = Path(__file__).resolve().parents[2]
CPUS = 2  # of a node, whatever the machine has

_CONFIG = """
ClusterName=octvideo
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued starts again when its credential has expired: 120 s by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldDebug=debug
SlurmdDebug=debug2
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
JobRequeue=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Newer versions: PreemptParameters=send_user_signal
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
"""


class Unavailable(Exception):
    """SLURM cannot run here; the message says why."""


class Cluster:
    """Two nodes, a partition ``low`` (the default) and ``high``, which preempts it: requeue, 60 s grace, user signal.

    Args:
        folder: gets the configuration, the state and the daemons' logs.

    Attributes:
        environment: what the commands of SLURM need to find this cluster.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the cluster.

        Raises:
            Unavailable: it cannot start; nothing is left running.
        """
        needed = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
        path = f"{os.environ['PATH']}:/usr/sbin"
        missing = [name for name in needed if shutil.which(name, path=path) is None]
        if missing:
            raise Unavailable(f"{missing[0]} is not on the PATH; on Debian: apt-get install {PACKAGES}")
        if os.geteuid():
            raise Unavailable("slurmd starts jobs only as root")
        os.environ["PATH"] = path
        try:
            self._start()
        except (Unavailable, OSError) as error:
            logs = self.logs()
            self.stop()
            raise Unavailable(f"SLURM did not start: {error}\n{logs}") from None

    def _start(self) -> None:
        munge = self.folder / "munge"
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755, parents=True)
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key-file": key, "socket": munge / "socket", "pid-file": munge / "pid", "seed-file": munge / "seed"}
        # --force: the socket may be below a folder that everyone may write to.
        self._daemon("munged", "--foreground", "--force", "--num-threads=2", *(f"--{k}={v}" for k, v in files.items()))
        self._until(lambda: (munge / "socket").exists(), "munged makes no socket")
        ports = _free_ports(1 + len(NODES))
        nodes = [
            f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={socket.gethostname()} Port={port} CPUs={CPUS} "
            "RealMemory=2000 State=UNKNOWN"
            for node, port in zip(NODES, ports[1:])
        ]
        host = socket.gethostname().split(".")[0]
        config = _CONFIG.format(host=host, port=ports[0], folder=self.folder, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(config)
        self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._until(self._ready, "the nodes do not become idle")

    def _daemon(self, *command: str) -> None:
        output = self.folder / f"{len(self._daemons)}-{command[0]}.txt"
        with output.open("wb") as file:
            # A new session: Ctrl-C is for this process, which ends the daemons in order. They also end when it is
            # killed.
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def _until(self, condition: Callable[[], bool], complaint: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not condition():
            ended = [daemon for daemon in self._daemons if daemon.poll() is not None]
            if ended:
                raise Unavailable(f"{ended[0].args[3]} ended with code {ended[0].returncode}")
            if time.monotonic() > end:
                raise Unavailable(f"{complaint} within {seconds:.0f} s")
            time.sleep(0.2)

    def _ready(self) -> bool:
        done = self.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %T", check=False)
        return sorted(done.stdout.split("\n")[:-1]) == [f"{node} idle" for node in NODES]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this cluster; the output is text."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)

    def logs(self, lines: int = 60) -> str:
        """Return the end of every daemon's log."""
        files = sorted(path for pattern in ("*.txt", "*.log") for path in self.folder.glob(pattern))
        return "\n".join(f"== {path.name}\n{_tail(path, lines)}" for path in files)

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        if len(self._daemons) > 1 and self._daemons[1].poll() is None:
            self.run("scancel", "--user=root", check=False)
            end = time.monotonic() + 20
            while self.run("squeue", "--noheader", check=False).stdout.strip() and time.monotonic() < end:
                time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()


def sbatch(cluster: Cluster, script: str, folder: Path, *arguments: str) -> str:
    """Submit a copy of an example for nodes without GPUs; return the number of the job."""
    lines = (ROOT / "examples" / "slurm" / script).read_text().splitlines(keepends=True)
    copy = folder / script
    copy.write_text("".join(line for line in lines if not line.startswith("#SBATCH --gpus")))
    command = folder / "bin" / "octvideo"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m octvideo "$@"\n')
    command.chmod(0o755)
    python = Path(sys.executable).parent
    variables = {"PATH": f"{command.parent}:{python}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "GPUS": "1"}
    done = subprocess.run(
        [
            "sbatch",
            "--parsable",
            *arguments[: arguments.index("--")],
            str(copy),
            *arguments[arguments.index("--") + 1 :],
        ],
        env={**os.environ, **cluster.environment, **variables, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _free_ports(count: int) -> list[int]:
    with_port = [socket.socket() for _ in range(count)]
    for free in with_port:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in with_port]
    for free in with_port:
        free.close()
    return ports


def _tail(path: Path, lines: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def main() -> None:
    """Run a cluster until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        print(cluster.run("sinfo").stdout)
        print(
            f"in another shell: export SLURM_CONF={cluster.environment['SLURM_CONF']}; Ctrl-C here ends it", flush=True
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("ending the cluster", file=sys.stderr)
        finally:
            cluster.stop()


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        sys.exit(f"error: {error}")
