"""A Slurm of one node for tests, with its controller and its node on this machine; all of it in one folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys

from cluster_harness import PATIENCE, wait_until

CONFIG = """
ClusterName=znb
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=100 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
"""


def missing():
    """Return what is missing for it; empty if nothing is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm of one's own needs Linux and root"
    for tool in ("munged", "slurmctld", "slurmd", "srun"):
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"there is no {tool}: install slurm-wlm and munge"
    return ""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def slurm(folder):
    """Run it; yields the environment for its commands."""
    folder.mkdir(mode=0o755, parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    host = os.uname().nodename.partition(".")[0]
    cpus = len(os.sched_getaffinity(0))
    config.write_text(CONFIG.format(host=host, folder=folder, cpus=cpus, controller=free_port(), node=free_port()))
    key = folder / "munge.key"
    subprocess.run(["mungekey", "-c", "-k", key], check=True)
    key.chmod(0o600)
    environment = {**os.environ, "SLURM_CONF": str(config)}
    commands = [
        ["munged", "-F", "-f", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
         f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed", "--num-threads=1"],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config), "-N", host],
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for number, command in enumerate(commands):
            command[0] = shutil.which(command[0], path="/usr/sbin:/usr/bin") or command[0]
            with (folder / f"{number}.log").open("wb") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(end, process)
            if number == 0:
                wait_until((folder / "munge.socket").exists, "munge")
        wait_until(lambda: state(environment).startswith("idle"), "a node that is idle")
        yield environment


def state(environment):
    command = ["sinfo", "--noheader", "--format=%t"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def end(process):
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
