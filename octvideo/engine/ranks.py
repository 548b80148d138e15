"""Rank and world size of this process, from what torchrun, srun and submitit put into the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from octvideo.errors import UserError

__all__ = ["Place", "find_place", "torchrun_variables"]

_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SPECIAL_STEP = 0xFFFFFFF0  # the batch script and an interactive shell have step numbers from here on


@dataclass(frozen=True)
class Place:
    """A process among all processes of the run.

    Attributes:
        rank, size: number of this process, and of all.
        local: its number on its node.
        address, port: where the first process waits for the others; empty and 0 for a single process.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    address: str = ""
    port: int = 0


def torchrun_variables(rank: int, size: int, local: int, hosts: str, job: int, step: int = 0) -> dict[str, str]:
    """Return the variables that torchrun would set, for a task of a SLURM job.

    Args:
        rank, size, local: see ``Place``.
        hosts: names of the nodes as SLURM writes them: ``gpu[07-08],login1``.
        job, step: their numbers, which give the port: jobs and steps that share a node must not share a port.
    """
    several = "," in hosts or "[" in hosts
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(local),
        "MASTER_ADDR": _first_host(hosts) if several else "127.0.0.1",
        "MASTER_PORT": str(20000 + (job + 7919 * step) % 20000),
    }


def _first_host(hosts: str) -> str:
    """``gpu[07-08,11],login1`` is ``gpu07``."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", hosts)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else "")


def find_place(environment: Mapping[str, str]) -> Place:
    """Return this process's place.

    torchrun and submitit set WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; tasks that srun starts have
    SLURM's variables. Those of an allocation (a batch script, salloc's shell) do not describe a process of a run.

    Raises:
        UserError: the variables are inconsistent, for example left over from an earlier run.
    """
    given = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    if "RANK" not in given:
        given = _with_slurm(given, environment)
    size, rank, local = _number(given, "WORLD_SIZE", 1), _number(given, "RANK", 0), _number(given, "LOCAL_RANK", 0)
    found = [name for name in _VARIABLES[:3] if name in given]
    needed = _VARIABLES[:1] if size == 1 else ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
    if found and (missing := [name for name in needed if name not in given]):
        raise UserError(f"{_shown(given, found)} in the environment, without {', '.join(missing)}: {_remedy(given)}")
    if not (0 <= rank < size and local < size):
        raise UserError(f"{_shown(given, found)} in the environment: they contradict each other; {_remedy(given)}")
    if size == 1:
        return Place()
    port = _number(given, "MASTER_PORT", 0)
    if not 0 < port < 2**16:
        raise UserError(f"MASTER_PORT={port} in the environment: it must be from 1 to 65535; {_remedy(given)}")
    return Place(rank, size, local, given["MASTER_ADDR"], port)


def _with_slurm(given: dict[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Add the variables of a task that srun has started together with others."""
    step, rank = environment.get("SLURM_STEP_ID", ""), environment.get("SLURM_PROCID", "")
    if not (step.isdecimal() and rank.isdecimal() and int(step) < _SPECIAL_STEP):
        return given
    name = "SLURM_STEP_NUM_TASKS" if environment.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    size = _number(environment, name, 1)
    if size == 1:
        return given
    if "SLURM_PTY_WIN_ROW" in environment or "SLURM_PTY_PORT" in environment:
        raise UserError(
            f"{name}={size} in the environment, but this is one process in the shell of srun --pty: start with "
            "torchrun or srun, or unset SLURM_PROCID to run alone"
        )
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    numbers = [_number(environment, each, 0) for each in ("SLURM_LOCALID", "SLURM_JOB_ID")]
    if _number(given, "WORLD_SIZE", size) != size:
        raise UserError(f"WORLD_SIZE={given['WORLD_SIZE']} in the environment, but srun started {size} tasks: unset it")
    found = torchrun_variables(int(rank), size, numbers[0], hosts, numbers[1], int(step))
    return found | {name: given[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in given}


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name}={text} in the environment: it must be a number; start with torchrun, or unset it")
    return int(text)


def _shown(given: Mapping[str, str], names: list[str]) -> str:
    return ", ".join(f"{name}={given[name]}" for name in names)


def _remedy(given: Mapping[str, str]) -> str:
    return f"start with torchrun or srun, or run alone: unset {' '.join(name for name in _VARIABLES if name in given)}"
