"""Options of jobs, which both forms of ``submit`` and ``compare`` have."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import TYPE_CHECKING, Any

from octvideo.cli.arguments import path_arg, positive_int
from octvideo.errors import UserError

if TYPE_CHECKING:
    from octvideo.cluster.slurm import Resources

__all__ = ["add_job_arguments", "import_cluster", "resources_from"]

_SBATCH = ("partition", "qos", "account", "constraint", "mem")


def add_job_arguments(parser: argparse._ActionsContainer, *, cpus: str, folder: str) -> None:
    """Add the options; ``cpus`` and ``folder`` name two defaults."""
    parser.add_argument("--cpus-per-task", type=positive_int, metavar="C", help=f"default: {cpus}")
    parser.add_argument(
        "--timeout", type=positive_int, default=60, metavar="MINUTES", help="then the job is requeued and resumes (60)"
    )
    for name in _SBATCH:
        parser.add_argument(f"--{name}", metavar=name[0].upper(), help="as for sbatch")
    parser.add_argument("--folder", type=path_arg, metavar="DIR", help=f"the job's files; default: {folder}")
    parser.add_argument("--wait", action="store_true", help="wait for the end; exit code 1 if a job failed")
    parser.add_argument("--cluster", default="slurm", choices=("slurm", "local"), help="local: on this machine")


def resources_from(arguments: argparse.Namespace, *, nodes: int, gpus_per_node: int) -> Resources:
    """Return the resources that the options describe."""
    return import_cluster("slurm").Resources(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_task=arguments.cpus_per_task,
        timeout=arguments.timeout,
        **{name: getattr(arguments, name) for name in _SBATCH},
    )


def import_cluster(module: str) -> Any:
    """Import a module of ``octvideo.cluster``.

    Raises:
        UserError: submitit is not installed.
    """
    try:
        return import_module(f"octvideo.cluster.{module}")
    except ImportError:
        raise UserError("submitit is not installed; install it with: pip install submitit") from None
