"""``submit ... -- COMMAND``: a long command as tasks on SLURM, or as processes of this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from octvideo.cli.arguments import core_count, positive_int
from octvideo.cli.submit_options import add_job_arguments, import_cluster, resources_from
from octvideo.errors import UserError

__all__ = ["main"]


class _Command(NamedTuple):
    """A command that understands ``--part`` and ``--merge``.

    Attributes:
        module: has ``parse(argv)``.
        result: the option that names the result, which the tasks share.
    """

    module: str
    result: str


_COMMANDS = {
    "predict": _Command("octvideo.cli.predict", "output_jsonl"),
    "check-videos": _Command("octvideo.cli.check_videos", "report"),
}
_SCRIPTS = {
    "predict.py": _COMMANDS["predict"],
    "verify_videos.py": _COMMANDS["check-videos"],
    "kinetics_download.py": _Command("data_tools.kinetics.download", "output"),
    "kinetics_prepare.py": _Command("data_tools.kinetics.prepare", "output"),
    "make_shards.py": _Command("data_tools.shards.make_shards", "output"),
}
_FORMS = "octvideo submit --tasks N -- COMMAND ...; the commands are " + ", ".join([*_COMMANDS, *_SCRIPTS])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="octvideo submit",
        usage="octvideo submit [options] -- COMMAND ...",
        description="Share a long command among tasks on SLURM, or processes of this machine.",
        epilog=_FORMS,
    )
    parser.add_argument("--tasks", type=positive_int, default=8, metavar="N", help="tasks that share the work (8)")
    parser.add_argument("--at-once", type=positive_int, metavar="M", help="tasks that run at the same time; default: N")
    parser.add_argument("--gpus-per-task", type=int, default=0, choices=(0, 1), help="default: 0")
    add_job_arguments(parser, cpus="1; on this machine its cores divided by M", folder="RESULT.tasks")
    return parser


def main(argv: Sequence[str], command: Sequence[str]) -> int:
    """Submit a command. With ``--wait`` return 1 if it failed; on this machine its exit code.

    Args:
        argv: what stands before ``--``.
        command: what follows it.

    Raises:
        UserError: a command without parts, wrong options, no SLURM, a job that is refused.
    """
    arguments = _parser().parse_args(argv if command != ["--help"] else command)
    here = arguments.cluster == "local"
    words, result = _resolve(command, arguments.gpus_per_task > 0, here)
    tasks, at_once = arguments.tasks, min(arguments.at_once or arguments.tasks, arguments.tasks)
    folder = arguments.folder or result.with_name(f"{result.name}.tasks")
    if here:
        cpus = arguments.cpus_per_task or max(1, core_count() // at_once)
        return import_cluster("commands").run_here(words, tasks, at_once, cpus, folder)
    resources = resources_from(arguments, nodes=1, gpus_per_node=arguments.gpus_per_task)
    jobs = import_cluster("commands").submit_command(words, tasks, at_once, resources, folder)
    *shares, merge = jobs
    array = shares[0].job_id.split("_")[0]
    print(f"job {array}: {tasks} tasks, at most {at_once} at once; files in {folder}", flush=True)
    print(f"job {merge.job_id}: then merges into {result}", flush=True)
    if not arguments.wait:
        return 0
    follow = import_cluster("follow")
    states = follow.follow(jobs, tail=False)
    reasons = {job.job_id: follow.failure_reason(job, states[job.job_id]) for job in jobs}
    for job_id, reason in reasons.items():
        if reason is not None:
            print(f"error: job {job_id} failed: {reason}; see {folder}", file=sys.stderr)
    if reasons[merge.job_id] is None:
        print(f"{result}: done")
    return int(reasons[merge.job_id] is not None)


def _resolve(command: Sequence[str], on_gpu: bool, here: bool) -> tuple[list[str], Path]:
    """Return the command as words that start it on any node, and its result."""
    if not command:
        raise UserError(f"no command follows --; {_FORMS}")
    name, *rest = command
    script = Path(name)
    if name in _COMMANDS:
        form, words = _COMMANDS[name], [sys.executable, "-m", "octvideo", name]
    elif script.name in _SCRIPTS:
        if not script.is_file():
            raise UserError(f"{name}: no such file; give the path of this script in a clone of octvideo")
        form, words = _SCRIPTS[script.name], [sys.executable, str(script.resolve())]
        sys.path.insert(0, str(script.resolve().parents[1]))
    else:
        raise UserError(f"{name}: cannot be shared by tasks; {_FORMS}")
    parsed = import_module(form.module).parse(rest)
    if parsed.part or parsed.merge:
        raise UserError("--part and --merge: submit passes these; leave them out")
    result = getattr(parsed, form.result)
    if result is None:
        raise UserError(f"{name}: give --{form.result.replace('_', '-')} FILE, which the tasks share")
    if form is _COMMANDS["predict"]:
        rest = [*rest, *_pinned(parsed, on_gpu, here)]
    return [*words, *rest], result


def _pinned(parsed: argparse.Namespace, on_gpu: bool, here: bool) -> list[str]:
    """Return the options that make all tasks of ``predict`` compute alike: backend and device.

    They are what one process would choose. A network that OpenVINO runs is converted here, once for all tasks. The
    precision is that of the backend, and the batch is the configuration's.
    """
    from octvideo.cli.network_options import predictor_from
    from octvideo.cli.predict import find

    videos, _ = find(parsed)
    if not videos:
        raise UserError(f"predict {' '.join(parsed.source)}: no video to predict")
    if not here:  # this may be a login node, whose devices say nothing of the tasks'
        parsed.device = "cuda" if on_gpu else "cpu" if parsed.device == "auto" else parsed.device
        if parsed.device != "cpu":
            return ["--device", parsed.device, "--backend", "torch" if parsed.backend == "auto" else parsed.backend]
    predictor = predictor_from(parsed, len(videos))
    return ["--device", predictor.device.type, "--backend", predictor.backend.split()[0]]
