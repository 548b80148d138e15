"""``tools/submit.py``: trains and tests a configuration on SLURM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from octvideo.cli.predict import positive
from octvideo.config import load_cfg
from octvideo.errors import UserError

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="submit", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--cfg", required=True, help="a configuration: path, or bare name below configs/")
    parser.add_argument("--nodes", type=positive, required=True, metavar="N")
    parser.add_argument(
        "--gpus-per-node", type=_count, required=True, metavar="G", help="one task for each; 0: one CPU task a node"
    )
    parser.add_argument(
        "--cpus-per-task", type=positive, metavar="C", help="default: the loader's processes (NUM_WORKERS) and one"
    )
    parser.add_argument(
        "--timeout", type=positive, default=60, metavar="MINUTES", help="then the job is requeued and goes on (60)"
    )
    for name in ("partition", "qos", "account", "constraint", "mem"):
        parser.add_argument(f"--{name}", metavar=name[0].upper(), help="as for sbatch")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="the job's files; default: OUTPUT_DIR/slurm")
    parser.add_argument("--wait", action="store_true", help="wait for the end; the exit code says how it was")
    parser.add_argument("--cluster", default="slurm", choices=("slurm", "local"), help="local: on this machine")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} must be at least 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Submits; with ``--wait`` returns 1 where the job failed.

    Raises:
        UserError: a wrong configuration, no SLURM, a job that is refused.
    """
    # Intermixed: options may stand on either side of KEY VALUE pairs.
    args = _parser().parse_intermixed_args(argv)
    cfg = load_cfg(args.cfg, args.overrides)
    try:
        from octvideo.cluster.slurm import Resources, submit
    except ImportError:
        raise UserError("submitit is needed for this; install it with: pip install submitit") from None

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
    folder = args.folder or Path(cfg.OUTPUT_DIR) / "slurm"
    job = submit(cfg, resources, folder, args.cluster)
    print(f"job {job.job_id}: files in {folder}, results in {cfg.OUTPUT_DIR}", flush=True)
    if not args.wait:
        return 0
    job.wait()
    error = job.exception()
    if error is None:
        print(f"job {job.job_id}: done")
        return 0
    # Submitit puts the job's traceback between two rules.
    parts = str(error).split("-" * 22)
    reason = parts[1 if len(parts) > 2 else 0].strip().splitlines()[-1]
    print(f"error: job {job.job_id} failed: {reason}; see {job.paths.folder}", file=sys.stderr)
    return 1
