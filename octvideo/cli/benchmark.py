"""``tools/benchmark.py``: measure speed compared with an alternative."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octvideo.cli.arguments import alpha_keys, model_name, positive_int
from octvideo.config import CfgNode, load_cfg
from octvideo.errors import UserError
from octvideo.models.zoo import config_file, weights_file

if TYPE_CHECKING:
    from octvideo.benchmarking.timing import Report

__all__ = ["main"]

_DEFAULT = "quickstart/oct_i3d.yaml"
_TEXT = """
forward     one clip through the octave network and its vanilla twin, with 3D convolutions and with 2D ones; --runtime
            adds other runtimes; --alpha compares several octave networks in one run
train       an optimizer step on a batch in memory: the engine and a bare loop, octave and vanilla; --data adds the
            engine on clips of videos
data        training clips: the loader with 1 and 2 workers, compared with decoding and resizing alone; memory growth
views       the test views of a video: opened once, compared with once per view; frames sorted, or in order of clips
end-to-end  load a network, first prediction of a video, next predictions
"""
_NEEDS_DATA = ("data", "views", "end-to-end")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="octvideo benchmark",
        description=__doc__.split(": ", 1)[1],
        epilog=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=("forward", "train", *_NEEDS_DATA))
    parser.add_argument("--cfg", help=f"a configuration: path, or bare name below configs/ ({_DEFAULT})")
    parser.add_argument("--model", type=model_name, metavar="NAME", help="the configuration of a network by name")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="data, views, train: a list or class folders; end-to-end: a video",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="end-to-end: weights; default: the small model that ships with octvideo"
    )
    parser.add_argument(
        "--runtime",
        action="append",
        default=[],
        choices=("inductor", "onnx", "openvino"),
        help="forward: also run both networks compiled, or exported; may be repeated",
    )
    parser.add_argument(
        "--alpha",
        action="append",
        default=[],
        type=alpha_keys,
        metavar="A[xM]",
        help="forward: OCTAVE.ALPHA A with OCTAVE.MULTIPLE M, like 0.125x16; may be repeated",
    )
    parser.add_argument("--rounds", type=positive_int, default=10, metavar="N", help="rounds; figures are medians (10)")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Raises:
        UserError: --data is missing or does not fit, or a wrong configuration.
    """
    args = _parser().parse_intermixed_args(argv)
    name: str = args.benchmark
    if args.data is None and name in _NEEDS_DATA:
        raise UserError(f"benchmark {name}: give --data PATH")
    if args.data is not None and name == "forward":
        raise UserError(f"benchmark {name}: takes no --data")
    if args.runtime and name != "forward":
        raise UserError(f"benchmark {name}: takes no --runtime")
    if args.alpha and name != "forward":
        raise UserError(f"benchmark {name}: takes no --alpha; set OCTAVE.ALPHA")
    if args.checkpoint and name != "end-to-end":
        raise UserError(f"benchmark {name}: takes no --checkpoint: weights do not matter for it")
    if args.model and args.cfg:
        raise UserError(f"--model {args.model} has its own configuration; pass either --model or --cfg")
    report = _measure(args)
    from octvideo.benchmarking.timing import hardware

    found = {"benchmark": name, "hardware": hardware(), "rounds": args.rounds}
    found |= {"results": report.results, "ratio": report.ratio}
    if report.memory:
        found["memory"] = report.memory
    print(json.dumps(found, indent=1) if args.json else _as_text(found))
    return 0


def _measure(args: argparse.Namespace) -> Report:
    overrides = list(args.overrides)
    file = config_file(args.model) if args.model else args.cfg
    if args.benchmark == "end-to-end":
        from octvideo.benchmarking.videos import end_to_end

        # Without one, the checkpoint's own configuration is used.
        cfg: CfgNode | None = load_cfg(file, overrides) if file else None
        if cfg is None and overrides:
            raise UserError(f"{overrides[0]}: end-to-end can change keys only with --cfg FILE; give one")
        checkpoint = weights_file(args.model) if args.model and not args.checkpoint else args.checkpoint
        return end_to_end(cfg, checkpoint, Path(args.data), args.rounds)
    if args.data is not None:
        overrides += ["DATA.TEST" if args.benchmark == "views" else "DATA.TRAIN", args.data]
    settings = load_cfg(file or _DEFAULT, overrides)
    if settings.NUM_THREADS:
        import torch

        torch.set_num_threads(settings.NUM_THREADS)
    if args.benchmark in _NEEDS_DATA:
        from octvideo.benchmarking import videos

        return (videos.data if args.benchmark == "data" else videos.views)(settings, args.rounds)
    if args.benchmark == "forward":
        from octvideo.benchmarking.networks import forward

        octaves = {"octave": settings}
        if args.alpha:
            octaves = {_octave_name(keys): load_cfg(file or _DEFAULT, [*overrides, *keys]) for keys in args.alpha}
        return forward(octaves, args.rounds, list(dict.fromkeys(args.runtime)))
    from octvideo.benchmarking.training import train

    return train(settings, args.rounds, from_videos=args.data is not None)


def _octave_name(keys: Sequence[str]) -> str:
    _, alpha, _, multiple = keys
    return f"octave {alpha}" + (f" x{multiple}" if multiple != "1" else "")


def _as_text(found: dict[str, Any]) -> str:
    machine = found["hardware"]
    lines = [
        f"{found['benchmark']}: medians of N = {found['rounds']} rounds",
        f"{machine['cpu']}, {machine['cores']} cores ({machine['threads']} threads), GPU {machine['gpu'] or 'none'}, "
        f"torch {machine['torch']}",
        "",
    ]
    columns = [key for key in found["results"][0] if key != "name"]
    first = max(len(result["name"]) for result in found["results"])
    widths = [max(14, len(column)) for column in columns]
    lines.append(" " * first + "".join(f"  {column:>{width}}" for column, width in zip(columns, widths)))
    for result in found["results"]:
        cells = (f"  {result[column]:>{width}.4g}" for column, width in zip(columns, widths))
        lines.append(f"{result['name']:{first}}" + "".join(cells))
    lines += ["", "ratio of seconds", *_pairs_as_text(found["ratio"], ".2f")]
    if "memory" in found:
        lines += ["", "memory", *_pairs_as_text(found["memory"], ".3g")]
    return "\n".join(lines)


def _pairs_as_text(values: dict[str, float], form: str) -> list[str]:
    width = max(map(len, values), default=0)
    return [f"  {name:{width}}{value:10{form}}" for name, value in values.items()]
