"""``octvideo compare``: train and test a network at several alphas and seeds, and write one table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from octvideo.cli.arguments import add_config_arguments, alpha_keys, nonnegative_int, positive_int
from octvideo.cli.submit_options import add_job_arguments, import_cluster, resources_from
from octvideo.config import CfgNode, load_cfg, with_overrides
from octvideo.engine.ranks import find_place
from octvideo.errors import UserError
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["main"]

_SET = ("OCTAVE.ALPHA", "OCTAVE.MULTIPLE")  # by --alphas
_FIXED = {"TRAIN.ENABLE": True, "TEST.ENABLE": True, "TEST.CHECKPOINT": "", "TRAIN.PATIENCE": 0}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="octvideo compare",
        description=__doc__.split(": ", 1)[1],
        epilog="Run the same command again to resume: what is finished is not run again.",
    )
    add_config_arguments(parser, required=True)
    parser.add_argument(
        "--alphas",
        nargs="+",
        required=True,
        metavar="A[xM]",
        help="OCTAVE.ALPHA A with OCTAVE.MULTIPLE M, like 0.125x16",
    )
    parser.add_argument(
        "--seeds", type=positive_int, default=1, metavar="N", help="runs of each alpha: from SEED on (1)"
    )
    job = parser.add_argument_group("on SLURM")
    job.add_argument("--submit", action="store_true", help="run what is left as one array job")
    job.add_argument("--nodes", type=positive_int, default=1, metavar="N", help="of each run (1)")
    job.add_argument("--gpus-per-node", type=nonnegative_int, metavar="G", help="0: one CPU task per node")
    add_job_arguments(job, cpus="NUM_WORKERS + 1", folder="OUTPUT_DIR/slurm")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left and write the table. Return 1 if a job failed, 128 + signal when a signal stopped a run.

    Raises:
        UserError: the user can fix the cause.
    """
    args = _parser().parse_intermixed_args(argv)
    if (size := find_place(os.environ).size) > 1:
        raise UserError(f"compare was started as {size} processes: start it as one; --submit gives a run several GPUs")
    if args.submit and args.gpus_per_node is None:
        raise UserError("--submit needs --gpus-per-node G; with 0 each run is a CPU task")
    # KEY VALUE pairs that follow the alphas are not alphas.
    number = next((place for place, text in enumerate(args.alphas) if not _is_alpha(text)), len(args.alphas))
    alphas, overrides = args.alphas[:number], [*args.alphas[number:], *args.overrides]
    if not alphas:
        raise UserError(f"--alphas {args.alphas[0]}: it must be like 0.25 or 0.125x16")
    base = load_cfg(args.cfg, overrides)
    cfgs = _plan(base, overrides, alphas, args.seeds)
    with StopOnSignal() as signals, signals.deferred():  # torch takes seconds to import
        from octvideo.analysis.twins import unfinished
        from octvideo.models import build_model
    for runs in cfgs.values():
        build_model(runs[0])  # finds an alpha that the network cannot have before the first training
    left = [cfg for runs in cfgs.values() for cfg in runs if unfinished(cfg) is not None]
    if left and args.submit:
        if not _run_jobs(left, args, Path(args.folder or Path(base.OUTPUT_DIR) / "slurm")):
            return 1
        if not args.wait:
            print("run the same command again when the jobs have ended: it writes the table")
            return 0
    elif code := _run_here(left):
        return code
    _write(cfgs, Path(base.OUTPUT_DIR))
    return 0


def _is_alpha(text: str) -> bool:
    try:
        alpha_keys(text)
    except argparse.ArgumentTypeError:
        return False
    return True


def _plan(base: CfgNode, overrides: Sequence[str], alphas: Sequence[str], seeds: int) -> dict[str, list[CfgNode]]:
    """Return the configurations of the seeds, by alpha: they differ in octave keys, SEED and OUTPUT_DIR.

    Raises:
        UserError: an alpha is wrong or given twice, or a key is set that would make the comparison unfair.
    """
    if key := next((key for key in overrides[::2] if key in _SET), ""):
        raise UserError(f"{key}: --alphas sets it; write --alphas 0.25, or 0.25x16 for multiples of 16")
    for key, value in _FIXED.items():
        section, name = key.split(".")
        if (found := base[section][name]) != value:
            raise UserError(
                f"{key} is {found}: each twin is trained for all steps and tested; set {key} {value or repr(value)}"
            )
    cfgs: dict[str, list[CfgNode]] = {}
    for text in alphas:
        keys = alpha_keys(text)
        alpha, multiple = float(keys[1]), int(keys[3])
        name = f"{alpha:g}" + (f"x{multiple}" if multiple != 1 else "")
        if name in cfgs:
            raise UserError(f"--alphas {' '.join(alphas)}: {text} is given twice")
        if not alpha:
            keys += ["OCTAVE.FAST_ALPHA", "0"]
        cfgs[name] = []
        for seed in range(base.SEED, base.SEED + seeds):
            folder = Path(base.OUTPUT_DIR) / f"alpha-{name}" / f"seed-{seed}"
            cfgs[name].append(with_overrides(base, [*keys, "SEED", str(seed), "OUTPUT_DIR", str(folder)]))
    return cfgs


def _run_here(cfgs: Sequence[CfgNode]) -> int:
    """Train and test, one run after the other; return 0, or 128 + signal when a signal stopped it."""
    from octvideo.engine.experiment import run_experiment

    for number, cfg in enumerate(cfgs, 1):
        with StopOnSignal() as signals:
            print(f"run {number} of {len(cfgs)}: {cfg.OUTPUT_DIR}", file=sys.stderr, flush=True)
            try:
                is_done = run_experiment(cfg, signals)
            except Stopped as stopped:
                print(f"{stopped}; run the same command again", file=sys.stderr)
                is_done = False
            if not is_done:
                return signals.code
    return 0


def _run_jobs(cfgs: Sequence[CfgNode], args: argparse.Namespace, folder: Path) -> bool:
    """Submit the runs as one array job. With ``--wait`` wait for them, and return whether all are done."""
    follow = import_cluster("follow")
    resources = resources_from(args, nodes=args.nodes, gpus_per_node=args.gpus_per_node)
    jobs = import_cluster("slurm").submit(cfgs, resources, folder, args.cluster)
    for job, cfg in zip(jobs, cfgs):
        print(f"job {job.job_id}: files in {folder}, results in {cfg.OUTPUT_DIR}", flush=True)
    if not args.wait:
        return True
    states = follow.follow(jobs, tail=False)
    reasons = {job.job_id: follow.failure_reason(job, states[job.job_id]) for job in jobs}
    for job_id, reason in reasons.items():
        if reason is not None:
            print(f"error: job {job_id} failed: {reason}; see {folder}", file=sys.stderr)
    return not any(reasons.values())


def _write(cfgs: Mapping[str, Sequence[CfgNode]], folder: Path) -> None:
    """Write and print the table."""
    from octvideo.analysis.twins import as_markdown, compare_twins, write_comparison

    found = compare_twins(cfgs)
    write_comparison(found, folder)
    print(as_markdown(found))
    print(f"{folder}: compare.md, compare.csv, compare.json and the figure compare.png")
