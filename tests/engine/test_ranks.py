"""Which process of how many this is, from what launchers leave in the environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from processes import ROOT

from octvideo.engine.ranks import Place, find_place
from octvideo.errors import UserError

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "gpu1", "MASTER_PORT": "29500"}
ALLOCATION = {"SLURM_JOB_ID": "99", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[1-2]"}
TASK = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1"}, Place()),
        ({"WORLD_SIZE": "", "RANK": ""}, Place()),
        ({"MASTER_ADDR": "gpu1", "MASTER_PORT": "1"}, Place()),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, Place()),
        (TORCHRUN, Place(2, 4, 0, "gpu1", 29500)),
        ({**ALLOCATION, **TASK, **TORCHRUN}, Place(2, 4, 0, "gpu1", 29500)),  # torchrun in each task
        (ALLOCATION, Place()),  # salloc's shell
        ({**ALLOCATION, "SLURM_PROCID": "0"}, Place()),  # a batch script
        ({**ALLOCATION, **TASK, "SLURM_STEP_ID": "4294967290"}, Place()),  # salloc's shell as a step
        ({**ALLOCATION, **TASK, "SLURM_STEP_NUM_TASKS": "1"}, Place()),
        ({**ALLOCATION, **TASK}, Place(3, 4, 1, "gpu07", 20099)),
        ({**ALLOCATION, **TASK, "SLURM_STEP_ID": "1"}, Place(3, 4, 1, "gpu07", 28018)),
        ({**ALLOCATION, **TASK, "SLURM_STEP_NODELIST": "gpu07"}, Place(3, 4, 1, "127.0.0.1", 20099)),
        ({**ALLOCATION, **TASK, "SLURM_STEP_NODELIST": "a,b[1-2]"}, Place(3, 4, 1, "a", 20099)),
        ({**ALLOCATION, **TASK, "SLURM_STEP_NODELIST": "r[1,3]n[01-04]-ib,x"}, Place(3, 4, 1, "r1n01-ib", 20099)),
        ({**ALLOCATION, **TASK, "WORLD_SIZE": "4", "MASTER_PORT": "7"}, Place(3, 4, 1, "gpu07", 7)),
    ],
)
def test_place(environment, place):
    assert find_place(environment) == place


def without(*names):
    return {name: value for name, value in TORCHRUN.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "4"},
            "WORLD_SIZE=4 in the environment, without RANK, MASTER_ADDR, MASTER_PORT: .* unset WORLD_SI",
        ),
        (
            without("MASTER_ADDR", "MASTER_PORT"),
            "WORLD_SIZE=4, RANK=2, LOCAL_RANK=0 .* without MASTER_ADDR, MASTER_PORT:",
        ),
        (without("WORLD_SIZE"), "RANK=2, LOCAL_RANK=0 .* without WORLD_SIZE: .* unset RANK LOCAL_RANK MASTER_ADDR"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 in the environment, without WORLD_SIZE: .*: unset LOCAL_RANK"),
        ({"RANK": "0"}, "RANK=0 in the environment, without WORLD_SIZE"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment: it must be a number"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK=-1 in the environment: it must be a number"),
        ({**TORCHRUN, "RANK": "4"}, "WORLD_SIZE=4, RANK=4, LOCAL_RANK=0 .*: they contradict each other"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "they contradict each other"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "they contradict each other"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "MASTER_PORT=70000 in the environment: it must be from 1 to 65535"),
        ({**ALLOCATION, **TASK, "WORLD_SIZE": "8"}, "WORLD_SIZE=8 in the environment, but srun started 4 tasks"),
        (
            {**ALLOCATION, **TASK, "SLURM_PTY_WIN_ROW": "24"},
            "SLURM_NTASKS=4 .* srun --pty: .* unset SLURM_PROCID to run",
        ),
    ],
)
def test_leftover_variables_end_in_one_line(environment, message):
    with pytest.raises(UserError, match=message) as error:
        find_place(environment)
    assert "\n" not in str(error.value)


_WAITS = """
import sys
from octvideo.cli import run
from octvideo.engine.distributed import distributed
from octvideo.signals import StopOnSignal

def wait(_):
    with StopOnSignal(), distributed("cpu", patience=float(sys.argv[1])):
        print("together")

sys.exit(run(wait))
"""


def wait_alone(patience: int, **environment: str) -> subprocess.Popen[str]:
    """A process of a world that does not come together."""
    return subprocess.Popen(
        [sys.executable, "-c", _WAITS, str(patience)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **TORCHRUN, "MASTER_ADDR": "127.0.0.1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_waiting_ranks_name_the_missing(tmp_path):
    port = str(20000 + os.getpid() % 20000)
    first = wait_alone(3, RANK="0", MASTER_PORT=port)
    third = wait_alone(10000, RANK="2", MASTER_PORT=str(int(port) - 1))  # nobody is there
    assert third.stderr is not None and first.stderr is not None
    where = f"127.0.0.1:{int(port) - 1}"
    assert third.stderr.readline() == f"waiting for the first process at {where}, at most 167 minutes\n"
    third.send_signal(signal.SIGINT)
    errors = third.communicate(timeout=240)[1]
    assert (third.returncode, errors) == (130, "stopped by SIGINT\n")
    errors = first.communicate(timeout=240)[1].splitlines()
    assert errors[0] == f"waiting for 3 of 4 processes at 127.0.0.1:{port}, at most 3 s"
    assert re.match(rf"error: waited 3 s in vain for 3 of 4 processes at 127.0.0.1:{port}: start all", errors[1])
    assert first.returncode == 2 and len(errors) == 2
