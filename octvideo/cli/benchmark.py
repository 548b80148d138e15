"""``tools/benchmark.py``: measures speed, beside the alternative."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octvideo.cli.arguments import positive_int
from octvideo.config import CfgNode, load_cfg
from octvideo.errors import UserError

if TYPE_CHECKING:
    from octvideo.benchmarking.timing import Report

__all__ = ["main"]

_DEFAULT = "quickstart/oct_i3d.yaml"
_TEXT = """
forward     one clip through the octave network and its vanilla twin, with 3D convolutions and with them run as 2D; with
            --runtime, what else runs networks too; with --alpha, several octave networks in one run
train       an optimiser step on a batch in memory: the engine, a bare loop and the same again, octave and vanilla; with
            --data, the engine on its clips too
data        training clips: the loader with 1 and 2 workers, and bare decoding and resizing; memory that openings leave
views       the test views of a video from one opening, and opening it once per view; frames sorted, and as asked
end-to-end  load a network, first prediction of a video, next predictions
"""
_NEEDS_DATA = ("data", "views", "end-to-end")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark",
        description=__doc__.split(": ", 1)[1],
        epilog=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=("forward", "train", *_NEEDS_DATA))
    parser.add_argument("--cfg", help=f"a configuration: path, or bare name below configs/ ({_DEFAULT})")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="data, views, train: a list file or a folder of class folders; end-to-end: a video",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="end-to-end: weights; default: the small model that ships with octvideo"
    )
    parser.add_argument(
        "--runtime",
        action="append",
        default=[],
        choices=("inductor", "onnx", "openvino"),
        help="forward: both networks compiled, or exported to a temporary folder and run from there; may be repeated",
    )
    parser.add_argument(
        "--alpha",
        action="append",
        default=[],
        type=_alpha,
        metavar="A[xM]",
        help="forward: an octave network of OCTAVE.ALPHA A and OCTAVE.MULTIPLE M, like 0.125x16; may be repeated",
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=10, metavar="N", help="the figures are medians of N (10)"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration keys to change")
    return parser


def _alpha(text: str) -> list[str]:
    """Keys and values of ``A`` or ``AxM``, for argparse."""
    alpha, _, multiple = text.partition("x")
    try:
        return ["OCTAVE.ALPHA", str(float(alpha)), "OCTAVE.MULTIPLE", str(int(multiple or 1))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0.25 or 0.125x16") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints.

    Raises:
        UserError: --data is missing or does not fit, or a wrong configuration.
    """
    # Intermixed: options may stand on either side of KEY VALUE pairs.
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
        raise UserError(f"benchmark {name}: takes no --checkpoint, its weights do not matter")
    report = _measure(args)
    from octvideo.benchmarking.timing import hardware

    found = {"benchmark": name, "hardware": hardware(), "rounds": args.rounds}
    found |= {"results": report.results, "ratio": report.ratio}
    found |= {key: value for key in ("memory", "own_share") if (value := getattr(report, key))}
    print(json.dumps(found, indent=1) if args.json else _as_text(found))
    return 0


def _measure(args: argparse.Namespace) -> Report:
    overrides = list(args.overrides)
    if args.benchmark == "end-to-end":
        from octvideo.benchmarking.videos import end_to_end

        # Without one, the checkpoint's own configuration is used.
        cfg: CfgNode | None = load_cfg(args.cfg, overrides) if args.cfg else None
        if cfg is None and overrides:
            raise UserError(f"{overrides[0]}: end-to-end changes keys only of a --cfg FILE; give one")
        return end_to_end(cfg, args.checkpoint, Path(args.data), args.rounds)
    if args.data is not None:
        overrides += ["DATA.TEST" if args.benchmark == "views" else "DATA.TRAIN", args.data]
    settings = load_cfg(args.cfg or _DEFAULT, overrides)
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
            octaves = {_octave_name(keys): load_cfg(args.cfg or _DEFAULT, [*overrides, *keys]) for keys in args.alpha}
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
    lines.append(f"{'':26s}" + "".join(f"{column:>16s}" for column in columns))
    for result in found["results"]:
        lines.append(f"{result['name']:26s}" + "".join(f"{result[column]:16.4g}" for column in columns))
    lines += ["", "ratio of seconds"]
    lines += [f"  {name:48s}{value:8.2f}" for name, value in found["ratio"].items()]
    for key in ("memory", "own_share"):
        if key in found:
            lines += ["", key.replace("_", " ")]
            lines += [f"  {name:48s}{value:8.3g}" for name, value in found[key].items()]
    return "\n".join(lines)
