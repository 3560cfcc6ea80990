"""A real Slurm of two nodes and four "GPUs" on this host, in a folder of its own.

    python tests/launch/slurm/slurm_cluster.py FOLDER [--without-accounting]

brings one up, prints the variables to export, and takes it down on ctrl-C. Needs root and Debian's
slurm-wlm, munge, and for accounting slurmdbd and mariadb-server. Nothing of a Slurm that the host
may already have is touched: ports, sockets, keys and the data base are this cluster's own.

Partitions over the same nodes: `low` (default; its jobs are requeued when preempted) and `high`.
"""

# ruff: noqa: T201
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")
NODES = ("n1", "n2")
_PATIENCE_SECONDS = 180.0

_SLURM_CONF = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters={select}
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=200000
JobAcctGatherType=jobacct_gather/linux
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait}
SlurmdTimeout=20
MaxArraySize={max_array_size}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{accounting}
NodeName=DEFAULT CPUs={cpus} RealMemory=4000 Gres=gpu:2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2}
PartitionName=DEFAULT Nodes=n1,n2 MaxTime=INFINITE State=UP
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Default=NO PriorityTier=10 PreemptMode=off
"""

_CGROUP_CONF = """
CgroupPlugin=cgroup/v1
CgroupMountpoint={folder}/cgroup
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
"""

_SLURMDBD_CONF = """
DbdHost=localhost
DbdPort={database_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb_port}
StorageUser=slurm
StoragePass=toy
StorageLoc=slurm_acct_db
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def missing_programs(*, accounting: bool = True) -> list[str]:
    """Return what is not installed here of what a cluster needs, root's rights included."""
    programs = (*NEEDED, *(NEEDED_FOR_ACCOUNTING if accounting else ()))
    missing = [name for name in programs if shutil.which(name, path=_path()) is None]
    return missing if os.geteuid() == 0 else [*missing, "root's rights"]


class SlurmCluster:
    """A cluster that runs between `with` and its end; `environment` makes commands find it."""

    def __init__(
        self,
        folder: Path,
        *,
        accounting: bool = True,
        max_array_size: int = 1001,
        cpus_per_node: int = 2,
        kill_wait: int = 5,
        memory_limits: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        self.accounting = accounting
        self.memory_limits = memory_limits
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("controller_port", "port_1", "port_2", "database_port", "mariadb_port")
        self._fields = {
            "folder": self.folder,
            "host": socket.gethostname(),
            "cpus": cpus_per_node,
            "max_array_size": max_array_size,
            "kill_wait": kill_wait,
            "task_plugin": "task/cgroup" if memory_limits else "task/none",
            "select": "CR_Core_Memory\nDefMemPerCPU=1500" if memory_limits else "CR_Core",
            **dict(zip(names, _free_ports(len(names)), strict=True)),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Return this process's variables, changed so that commands speak to this cluster."""
        return {
            **os.environ,
            "PATH": _path(),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    def __enter__(self) -> Self:
        try:
            self._write_files()
            self._start_munge()
            if self.accounting:
                self._start_database()
            self._start("slurmctld", "slurmctld", "-D", "-i")
            self._until("slurmctld answers", lambda: "UP" in self.ask("scontrol", "ping"))
            for node in NODES:
                self.start_node(node)
            self._until("both nodes are idle", self._nodes_are_idle)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, *command: str) -> str:
        """Return what a Slurm command prints, an error's text included."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stdout

    def start_node(self, node: str) -> None:
        """Start the node's daemon, again after `kill_node`."""
        self._start(f"slurmd-{node}", "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Take the node away as a power cut does: its daemon, its jobs' daemons and processes.

        The jobs' processes are the descendants of the node's slurmstepd processes. These die first:
        one that saw its job die would still tell the controller, which no node without power does.
        """
        process = self._processes.pop(f"slurmd-{node}")
        process.kill()
        process.wait()
        steps = _step_daemons(self.folder, node)
        below = [pid for step in steps for pid in _descendants(step)]
        for pid in (*steps, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def cancel_all(self) -> None:
        """Empty the queue and wait until it is."""
        self.ask("scancel", "--full", "--user", "root")
        self.ask("scancel", "--user", "root")
        self._until("the queue is empty", lambda: not self.ask("squeue", "-h").strip())

    def close(self) -> None:
        """Take everything down, in the reverse of the order in which it came up."""
        if "slurmctld" in self._processes and self._processes["slurmctld"].poll() is None:
            with contextlib.suppress(Exception):
                self.cancel_all()
        for name, process in reversed(list(self._processes.items())):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                print(f"{name} does not end; it is killed", file=sys.stderr)
                process.kill()
                process.wait()
        self._processes.clear()
        if self.memory_limits:
            _remove_groups(self.folder / "cgroup" / "memory")

    def _write_files(self) -> None:
        accounting = (
            "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=localhost\n"
            f"AccountingStoragePort={self._fields['database_port']}\n"
            f"AccountingStoragePass={self.folder}/munge.socket\nAccountingStorageEnforce=limits"
            if self.accounting
            else "AccountingStorageType=accounting_storage/none"
        )
        self._write("slurm.conf", _SLURM_CONF.format(**self._fields, accounting=accounting))
        self._write("slurmdbd.conf", _SLURMDBD_CONF.format(**self._fields)).chmod(0o600)
        gres = []
        for index in range(2):
            device = self.folder / f"gpu{index}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # another /dev/null
        for node in NODES:
            gres.append(f"NodeName={node} Name=gpu File={self.folder}/gpu[0-1]\n")
            (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._write("gres.conf", "".join(gres))
        if self.memory_limits:
            self._write("cgroup.conf", _CGROUP_CONF.format(folder=self.folder))
            _link_own_groups(self.folder / "cgroup")
        (self.folder / "state").mkdir(exist_ok=True)

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._start(
            "munged", "munged", "--foreground", "--force", f"--key-file={key}",
            *(f"--{name}-file={self.folder}/munge.{name}" for name in ("log", "pid", "seed")),
            f"--socket={self.folder}/munge.socket",
        )  # fmt: skip
        self._until("munged listens", (self.folder / "munge.socket").exists)

    def _start_database(self) -> None:
        data = self.folder / "mariadb"
        data.mkdir(exist_ok=True)
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--user=root",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
            env=self.environment,
        )
        sql = self._write(
            "init.sql",
            "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
            "CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY 'toy';\n"
            "CREATE OR REPLACE USER slurm@'localhost' IDENTIFIED BY 'toy';\n"
            "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n"
            "GRANT ALL ON slurm_acct_db.* TO slurm@'localhost';\n",
        )
        port = self._fields["mariadb_port"]
        self._start(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
            f"--socket={data}/socket", f"--port={port}", "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M", f"--init-file={sql}", f"--pid-file={data}/pid",
        )  # fmt: skip
        self._until("mariadbd listens", lambda: _listens(int(str(port))))
        self._start("slurmdbd", "slurmdbd", "-D")
        self._until("slurmdbd listens", lambda: _listens(int(str(self._fields["database_port"]))))

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _nodes_are_idle(self) -> bool:
        states = self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split()
        return states == ["idle"] * len(NODES)

    def _until(self, what: str, is_so: object) -> None:
        assert callable(is_so)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_so():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    text = (self.folder / f"{name}.out").read_text(errors="replace")
                    raise RuntimeError(f"{name} ended with {process.returncode}: {text[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"waited {_PATIENCE_SECONDS:.0f} s until {what}; see {self.folder}"
                )
            time.sleep(0.1)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def can_limit_memory() -> bool:
    """Return whether this process's own memory group (cgroup v1) takes groups below it."""
    group = own_groups().get("memory")
    return group is not None and os.access(group, os.W_OK)


def own_groups() -> dict[str, Path]:
    """Return this process's control groups of cgroup v1, by controller."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        path = Path("/sys/fs/cgroup", controllers, group.lstrip("/"))
        if controllers and path.is_dir():
            found[controllers] = path
    return found


def _link_own_groups(folder: Path) -> None:
    """Have the cluster make its groups below this process's own, not beside them."""
    folder.mkdir(exist_ok=True)
    for controller, path in own_groups().items():
        link = folder / controller
        if not link.is_symlink():
            link.symlink_to(path)


def _remove_groups(mounted: Path) -> None:
    for group in mounted.glob("slurm_n[12]"):
        for below in sorted(group.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                below.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()


def _step_daemons(folder: Path, node: str) -> list[int]:
    """Return the daemons of the node's job steps: they keep its log file open."""
    log = str(folder / f"slurmd-{node}.log")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_step = (process / "cmdline").read_bytes().startswith(b"slurmstepd")
            if is_step and log in _open_files(process):
                found.append(int(process.name))
    return found


def _open_files(process: Path) -> list[str]:
    return [str(entry.readlink()) for entry in (process / "fd").iterdir()]


def _descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(child) for child in task.read_text().split()]
    return [below for child in children for below in (*_descendants(child), child)]


def main(arguments: list[str]) -> int:
    """Bring a cluster up in a folder and keep it until ctrl-C."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    accounting = "--without-accounting" not in arguments
    if missing := missing_programs(accounting=accounting):
        print(f"not here: {', '.join(missing)}", file=sys.stderr)
        return 2
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # also where a shell started it in the background
        signal.signal(number, signal.default_int_handler)
    with SlurmCluster(Path(arguments[0]), accounting=accounting) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
