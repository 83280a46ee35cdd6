"""A Slurm cluster of one node for tests, with separate daemons, ports, key and folder."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
# Seconds until a daemon must respond.
_TIMEOUT = 60
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
MessageTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def unavailable_reason() -> str:
    """Returns why Slurm cannot be started on this machine, or "" if it can."""
    if os.getuid():
        return "the daemons of Slurm can be started by root only"
    absent = [name for name in _PROGRAMS if _find(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    return ""


@contextlib.contextmanager
def running(tasks: int = 2) -> Iterator[Mapping[str, str]]:
    """Starts a Slurm cluster and stops it at the end of the context.

    Args:
      tasks: number of one-core tasks that run at once; the machine may have fewer cores.

    Yields:
      The environment variables that a program needs to use the cluster.
    """
    # Munge's socket needs a short path, so the folder is not in pytest's tmp_path.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    ports = {"controller": _free_port(), "node": _free_port()}
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(folder=folder, host=host, cores=tasks, **ports))
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    with contextlib.ExitStack() as daemons:
        daemons.callback(shutil.rmtree, folder, ignore_errors=True)
        _munge(folder, daemons)
        environment = {"SLURM_CONF": str(conf)}
        _start(["slurmctld", "-D", "-f", str(conf)], folder, daemons)
        _start(["slurmd", "-D", "-f", str(conf), "-N", host], folder, daemons)
        _wait(lambda: "idle" in _output(["sinfo", "-h", "-o", "%T"], environment), folder)
        try:
            yield environment
        finally:
            _output(["scancel", "--me"], environment)
            with contextlib.suppress(TimeoutError):
                _wait(lambda: not _output(["squeue", "-h"], environment), folder, 20)


def _munge(folder: pathlib.Path, daemons: contextlib.ExitStack) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid"}
    options = [f"--{name}={folder}/munge.{ending}" for name, ending in files.items()]
    seed = f"--seed-file={folder}/munge.seed"
    _start(["munged", "--foreground", "--force", seed, *options], folder, daemons)
    _wait(lambda: (folder / "munge.socket").exists(), folder)


def _start(command: list[str], folder: pathlib.Path, daemons: contextlib.ExitStack) -> None:
    """Starts a daemon, which is stopped when `daemons` is closed."""
    out = daemons.enter_context((folder / f"{command[0]}.out").open("wb"))
    command = [_find(command[0]), *command[1:]]
    process = subprocess.Popen(
        command, stdout=out, stderr=out, env=os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    )
    daemons.callback(_stop, process)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False).stdout


def _wait(condition, folder: pathlib.Path, seconds: float = _TIMEOUT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(p.read_text(errors="replace")[-2000:] for p in folder.glob("*.out"))
            raise TimeoutError(f"Slurm in {folder} is not ready after {seconds} s:\n{logs}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
