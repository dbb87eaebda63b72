"""A real Slurm on this machine: two nodes of two CPUs, private in configuration and ports."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm import slurm_commands as scheduler
from slurm.job import Step
from slurm.records import read_chain, slurm_folder
from slurm.sites.site import parse_site
from slurm.status import StepStatus, chain_status, overall
from slurm.submit import Request, submit

NODES = ("n1", "n2")
CONFIG = """\
ClusterName=synshards
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MaxArraySize=6
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The running Slurm; SLURM_CONF points to it for the length of the session."""

    folder: Path

    def slurm(self, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run `python -m slurm` with these words in `folder`."""
        command = [sys.executable, "-m", "slurm", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    def statuses(self, run: Path) -> list[StepStatus]:
        """Return the status of the chain in `run`."""
        folder = slurm_folder(run)
        chain = read_chain(folder)
        assert chain is not None
        return chain_status(folder, chain, scheduler.read_queue(chain.job_ids))

    def states(self, run: Path) -> dict[str, list[str]]:
        """Return the state of each task by step."""
        return {s.step.name: [task.state for task in s.tasks] for s in self.statuses(run)}

    def describe(self, run: Path) -> str:
        """Return what `python -m slurm status` prints."""
        result = self.slurm("status", str(run), folder=run)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def wait(self, run: Path, timeout_s: float = 240) -> str:
        """Wait until nothing of the chain is queued or running; return its state."""
        settled = {"done", "failed", "blocked", "cancelled"}
        self.wait_for(
            lambda: all(settled.issuperset(tasks) for tasks in self.states(run).values()), timeout_s
        )
        return overall(self.statuses(run))

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 150) -> None:
        """Poll until the condition holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not within {timeout_s} s; {self.report()}"
            time.sleep(0.3)

    def report(self) -> str:
        """Return what the queue and the nodes look like."""
        return self.call("squeue") + self.call("sinfo", "-N")

    def call(self, *command: str) -> str:
        """Run one of Slurm's own commands and return what it printed."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    needed = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
    if missing := [name for name in needed if shutil.which(name, path=path) is None]:
        pytest.skip(f"no Slurm here ({', '.join(missing)} missing): .ci/run installs it as root")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts only as root")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        folder = Path(tempfile.mkdtemp(prefix="synshards-slurm-"))  # short: it holds a socket
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        patch.setenv("SLURM_CONF", str(configure(folder)))
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{path}")
        patch.setenv("OMP_NUM_THREADS", "1")
        for command in daemons(folder):
            stack.enter_context(daemon(command, folder))
        running = Cluster(folder=folder)
        running.wait_for(
            lambda: running.call("sinfo", "-hN", "-t", "idle").count("\n") == len(NODES)
        )
        stack.callback(drain_queue, running)
        yield running


@pytest.fixture(scope="session")
def chain_of() -> Callable[..., Request]:
    """Return a maker of chains whose steps run lines of bash."""

    def make(*steps: Step, folder: Path, **options: dict[str, str]) -> Request:
        return Request(
            steps=steps,
            site=parse_site({"resources": {"time": "10", "mem": "100"}}, python="bash"),
            options=options,
            workdir=folder,
            run=folder / "run",
            retry="python -m slurm submit ... --resume",
        )

    return make


@pytest.fixture(scope="session")
def warned(
    cluster: Cluster, chain_of: Callable[..., Request], tmp_path_factory: pytest.TempPathFactory
) -> Request:
    """A task that waits for a warning; submitted early, since Slurm looks every half minute."""
    line = (
        'trap "echo saved >>log; exit 75" USR1; echo start >>log; '
        '[ "$(grep -c start log)" = 2 ] || for _ in {1..3000}; do sleep 0.1; done'
    )
    request = chain_of(
        Step(name="ingest", commands=(("-c", line),)),
        Step(name="finish", commands=(("-c", "echo end >>log"),)),
        folder=tmp_path_factory.mktemp("warned"),
        ingest={"time": "1", "signal": "B:USR1@55"},
    )
    list(submit(request, 1001, resume=False))
    return request


def configure(folder: Path) -> Path:
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    host, ports = socket.gethostname(), free_ports(3)
    lines = (
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000"
        for name, port in zip(NODES, ports[1:], strict=True)
    )
    path = folder / "slurm.conf"
    path.write_text(CONFIG.format(host=host, ports=ports, folder=folder, nodes="\n".join(lines)))
    return path


def daemons(folder: Path) -> Iterator[list[str]]:
    yield [
        *("munged", "--foreground", "--force", f"--key-file={folder}/munge.key"),
        *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"),
        *(f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
    ]
    yield ["slurmctld", "-D"]
    yield from (["slurmd", "-D", "-N", name] for name in NODES)


@contextmanager
def daemon(command: list[str], folder: Path) -> Iterator[None]:
    log = folder / f"{'-'.join(word for word in command if '/' not in word)}.log"
    with log.open("wb") as file:
        # Ended by the kernel should the tests be killed.
        words = ["setpriv", "--pdeathsig", "TERM", *command]
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        try:
            if command[0] == "munged":
                wait_for_socket(folder / "munge.socket")
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_socket(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"munged did not start: {path.parent}/munge.log"
        time.sleep(0.05)


def drain_queue(cluster: Cluster) -> None:
    cluster.call("scancel", "--user=root")
    cluster.wait_for(lambda: not cluster.call("squeue", "-h"), timeout_s=30)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
