"""``tools/submit.py``: train and test a configuration on SLURM."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.arguments import add_config_arguments, nonnegative_int, positive_int
from octvideo.cli.submit_options import add_job_arguments, import_cluster, resources_from
from octvideo.config import CfgNode, load_cfg
from octvideo.errors import UserError

__all__ = ["main"]

_EPILOG = "Other long commands: octvideo submit [--tasks N] -- COMMAND ...; see octvideo submit -- --help"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octvideo submit", description=__doc__.split(": ", 1)[1], epilog=_EPILOG)
    add_config_arguments(parser, required=True)
    parser.add_argument("--nodes", type=positive_int, required=True, metavar="N")
    parser.add_argument(
        "--gpus-per-node",
        type=nonnegative_int,
        required=True,
        metavar="G",
        help="one task per GPU; 0: one CPU task per node",
    )
    add_job_arguments(parser, cpus="NUM_WORKERS + 1", folder="OUTPUT_DIR/slurm")
    parser.add_argument(
        "--alphas",
        "--array",
        nargs="+",
        metavar="A",
        help="a sweep as one array job: one run per alpha, in OUTPUT_DIR/alpha-A",
    )
    parser.add_argument("--tail", action="store_true", help="wait, and show the output of rank 0")
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
    words = list(sys.argv[1:] if argv is None else argv)
    if "--" in words and not any(word.startswith("--cfg") for word in words[: words.index("--")]):
        from octvideo.cli import submit_command

        return submit_command.main(words[: words.index("--")], words[words.index("--") + 1 :])
    args = _parser().parse_intermixed_args(words)
    # KEY VALUE pairs that follow the alphas are not alphas.
    alphas = list(itertools.takewhile(_is_number, args.alphas or []))
    if args.alphas and not alphas:
        raise UserError(f"--alphas {args.alphas[0]}: it must be a number, like 0.125")
    overrides = [*(args.alphas or [])[len(alphas) :], *args.overrides]
    cfgs = _sweep(args.cfg, alphas, overrides)
    follow, slurm = import_cluster("follow"), import_cluster("slurm")
    resources = resources_from(args, nodes=args.nodes, gpus_per_node=args.gpus_per_node)
    folder = args.folder or Path(load_cfg(args.cfg, overrides).OUTPUT_DIR) / "slurm"
    jobs = slurm.submit(cfgs, resources, folder, args.cluster)
    for job, cfg in zip(jobs, cfgs):
        print(f"job {job.job_id}: files in {folder}, results in {cfg.OUTPUT_DIR}", flush=True)
    if not (args.wait or args.tail):
        return 0
    states = follow.follow(jobs, args.tail)
    failed = False
    for job in jobs:
        reason = follow.failure_reason(job, states[job.job_id])
        if reason is None:
            print(f"job {job.job_id}: done")
        else:
            failed = True
            print(f"error: job {job.job_id} failed: {reason}; see {folder}", file=sys.stderr)
    return int(failed)
