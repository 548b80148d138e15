"""``tools/submit.py``: train and test a configuration on SLURM."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.arguments import add_config_arguments, nonnegative_int, path_arg, positive_int
from octvideo.config import CfgNode, load_cfg
from octvideo.errors import UserError

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="submit", description=__doc__.split(": ", 1)[1])
    add_config_arguments(parser, required=True)
    parser.add_argument("--nodes", type=positive_int, required=True, metavar="N")
    parser.add_argument(
        "--gpus-per-node",
        type=nonnegative_int,
        required=True,
        metavar="G",
        help="one task per GPU; 0: one CPU task per node",
    )
    parser.add_argument("--cpus-per-task", type=positive_int, metavar="C", help="default: NUM_WORKERS + 1")
    parser.add_argument(
        "--timeout", type=positive_int, default=60, metavar="MINUTES", help="then the job is requeued and resumes (60)"
    )
    for name in ("partition", "qos", "account", "constraint", "mem"):
        parser.add_argument(f"--{name}", metavar=name[0].upper(), help="as for sbatch")
    parser.add_argument(
        "--alphas",
        "--array",
        nargs="+",
        metavar="A",
        help="a sweep as one array job: one run per alpha, in OUTPUT_DIR/alpha-A",
    )
    parser.add_argument("--folder", type=path_arg, metavar="DIR", help="the job's files; default: OUTPUT_DIR/slurm")
    parser.add_argument("--wait", action="store_true", help="wait for the end; exit code 1 if a job failed")
    parser.add_argument("--tail", action="store_true", help="wait, and show the output of rank 0")
    parser.add_argument("--cluster", default="slurm", choices=("slurm", "local"), help="local: on this machine")
    return parser


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sweep(cfg: str, alphas: Sequence[str], overrides: Sequence[str]) -> list[CfgNode]:
    """Return one configuration per alpha; without alphas the one of the overrides."""
    base = load_cfg(cfg, overrides)
    if len({float(alpha) for alpha in alphas}) < len(alphas):
        raise UserError(
            f"--alphas {' '.join(alphas)}: each alpha must be given once; runs of the same alpha would share a folder"
        )
    folders = [str(Path(base.OUTPUT_DIR) / f"alpha-{alpha}") for alpha in alphas]
    changes = [["OCTAVE.ALPHA", alpha, "OUTPUT_DIR", folder] for alpha, folder in zip(alphas, folders)]
    return [load_cfg(cfg, [*overrides, *change]) for change in changes] or [base]


def main(argv: Sequence[str] | None = None) -> int:
    """Submit. With ``--wait`` or ``--tail`` return 1 if a job failed.

    Raises:
        UserError: a wrong configuration, no SLURM, a job that is refused.
    """
    args = _parser().parse_intermixed_args(argv)
    # KEY VALUE pairs that follow the alphas are not alphas.
    alphas = list(itertools.takewhile(_is_number, args.alphas or []))
    if args.alphas and not alphas:
        raise UserError(f"--alphas {args.alphas[0]}: it must be a number, like 0.125")
    overrides = [*(args.alphas or [])[len(alphas) :], *args.overrides]
    cfgs = _sweep(args.cfg, alphas, overrides)
    try:
        from octvideo.cluster.follow import failure_reason, follow
        from octvideo.cluster.slurm import Resources, submit
    except ImportError:
        raise UserError("submitit is not installed; install it with: pip install submitit") from None

    resources = Resources(
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        cpus_per_task=args.cpus_per_task,
        timeout=args.timeout,
        partition=args.partition,
        qos=args.qos,
        account=args.account,
        constraint=args.constraint,
        mem=args.mem,
    )
    folder = args.folder or Path(load_cfg(args.cfg, overrides).OUTPUT_DIR) / "slurm"
    jobs = submit(cfgs, resources, folder, args.cluster)
    for job, cfg in zip(jobs, cfgs):
        print(f"job {job.job_id}: files in {folder}, results in {cfg.OUTPUT_DIR}", flush=True)
    if not (args.wait or args.tail):
        return 0
    states = follow(jobs, args.tail)
    failed = False
    for job in jobs:
        reason = failure_reason(job, states[job.job_id])
        if reason is None:
            print(f"job {job.job_id}: done")
        else:
            failed = True
            print(f"error: job {job.job_id} failed: {reason}; see {folder}", file=sys.stderr)
    return int(failed)
