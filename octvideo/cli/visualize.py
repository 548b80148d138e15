"""``tools/visualize.py``: pictures of what a network sees, of its feature maps and of runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from octvideo.cli.arguments import add_config_arguments, path_arg
from octvideo.errors import UserError

if TYPE_CHECKING:
    from octvideo.analysis.pictures.sheet import Strip
    from octvideo.engine.networks import Network

__all__ = ["main"]

_WHATS = {
    "clip": "what the network gets of a video: sampled frames, augmentation of training, crops and clips of testing",
    "curves": "loss, learning rate and top-1 of runs against steps",
    "compare": "accuracy of runs against multiply-adds over alphas (the paper's Figure 3)",
    "cam": "Grad-CAM over time: a video that shows where the network finds its answer",
    "features": "the high and low feature maps of a layer next to each other",
    "mistakes": "the most certain wrong answers of a run",
}


def _parser() -> argparse.ArgumentParser:
    texts = "\n".join(f"  {name:10s}{text}" for name, text in _WHATS.items())
    parser = argparse.ArgumentParser(
        prog="octvideo visualize",
        usage="%(prog)s WHAT [--help] ...",
        description=__doc__.split(": ", 1)[1],
        epilog=f"WHAT is one of\n{texts}\n\nEach writes one file and prints its path.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=tuple(_WHATS), metavar="WHAT", help="the picture, see below")
    return parser


def _parser_of(what: str) -> argparse.ArgumentParser:
    """Return the parser of what follows WHAT."""
    parser = argparse.ArgumentParser(prog=f"octvideo visualize {what}", description=_WHATS[what])
    if what in ("clip", "cam", "features"):
        parser.add_argument("video", metavar="VIDEO", help="a file, a folder of numbered images or a URL")
    if what == "clip":
        add_config_arguments(parser)
    elif what in ("cam", "features"):
        parser.add_argument("--checkpoint", metavar="FILE", help="weights; default: the small model of octvideo")
        parser.add_argument("--cfg", metavar="FILE", help="configuration; needed only if the checkpoint has none")
    elif what == "mistakes":
        parser.add_argument("run", type=path_arg, metavar="RUN", help="OUTPUT_DIR of a run that was tested")
    elif what == "curves":
        parser.add_argument("runs", nargs="+", type=path_arg, metavar="RUN", help="OUTPUT_DIR of a run")
    else:
        text = "OUTPUT_DIR of a run, or a .csv file with the columns model, alpha, gflops and top1"
        parser.add_argument("runs", nargs="+", type=path_arg, metavar="TABLE|RUN", help=text)
    if what == "features":
        parser.add_argument("--layer", metavar="NAME", help="default: the first stage with two frequencies")
        parser.add_argument("--list", action="store_true", help="print the layers with the shapes of their maps")
    suffix = _suffix(what)
    parser.add_argument("--output", type=path_arg, metavar=f"FILE{suffix}", help="default: in the current folder")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write one picture or video and print its path.

    Raises:
        UserError: a video or a run that cannot be read, weights that do not fit, an unknown layer, a bad file name.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    what: str = _parser().parse_args(arguments[:1]).what
    args = _parser_of(what).parse_intermixed_args(arguments[1:])
    suffix = _suffix(what)
    if args.output is not None and args.output.suffix.lower() != suffix:
        raise UserError(f"--output {args.output}: give a name that ends in {suffix}")
    if what in ("clip", "cam", "features"):
        _of_video(what, args)
    else:
        _of_runs(what, args)


def _of_video(what: str, args: argparse.Namespace) -> None:
    from octvideo.config import load_cfg

    cfg = load_cfg(args.cfg, args.overrides) if what == "clip" else None  # reported before torch is imported
    from octvideo.inference.sources import local_copy

    with local_copy(args.video) as path:
        output = args.output or Path(f"{Path(args.video).absolute().stem}_{what}{_suffix(what)}")
        if path.exists() and output.resolve() == path.resolve():
            raise UserError(f"--output {output}: this is the input video; give another name")
        if cfg is not None:
            from octvideo.analysis.pictures.clip import clip_sheet

            _write_sheet(output, *clip_sheet(path, cfg, Path(args.video).name))
        elif what == "cam":
            _write_cam(path, output, args)
        else:
            _write_features(path, output, args)


def _write_cam(path: Path, output: Path, args: argparse.Namespace) -> None:
    from octvideo.analysis.pictures.cam import write_cam
    from octvideo.inference import Predictor

    network = _network(args)
    answer = write_cam(path, output, network, Predictor(args.checkpoint, args.cfg, backend="torch"))
    print(f"{args.video}: {answer.label}, {100 * answer.score:.1f} %", file=sys.stderr)
    print(output)


def _write_features(path: Path, output: Path, args: argparse.Namespace) -> None:
    from octvideo.analysis.pictures.clip import read_views
    from octvideo.analysis.pictures.maps import choose_layer, find_layers, layer_strips, normalized
    from octvideo.config import with_keys

    network = _network(args)
    _, views = read_views(path, with_keys(network.cfg, {"TEST.NUM_CLIPS": 1, "TEST.NUM_CROPS": 1}))
    layers = find_layers(network.model, normalized(views, network))
    if args.list:
        wide = max(map(len, layers)) + 2
        for name, shapes in layers.items():
            print(f"{name:{wide}s}{shapes}")
        return
    layer = choose_layer(layers, network.model, args.layer)
    _write_sheet(output, f"{layer} of {network.name}, {Path(args.video).name}", layer_strips(network, layer, views))


def _network(args: argparse.Namespace) -> Network:
    from octvideo.device import resolve_device
    from octvideo.engine.networks import load_network

    device = resolve_device("auto")
    network = load_network(args.checkpoint, args.cfg, as_2d=True if device.type == "cpu" else None)
    network.model.to(device)
    return network


def _of_runs(what: str, args: argparse.Namespace) -> None:
    from octvideo.files import write_bytes

    if what == "mistakes":
        from octvideo.analysis.pictures.mistakes import mistake_strips
        from octvideo.analysis.report_run import Run

        output = args.output or Path(f"{args.run.resolve().name}_mistakes.png")
        _write_sheet(output, *mistake_strips(Run(args.run)))
        return
    output = args.output or Path(f"{what}.png")
    if what == "curves":
        from octvideo.analysis.pictures.curves import draw_curves, read_runs

        content = draw_curves(read_runs(args.runs))
    else:
        from octvideo.analysis.pictures.compare import draw_comparison, read_results

        content = draw_comparison(read_results(args.runs))
    write_bytes(output, content, parents=True)
    print(output)


def _write_sheet(output: Path, title: str, strips: Sequence[Strip]) -> None:
    from octvideo.analysis.pictures.sheet import draw_sheet
    from octvideo.files import write_bytes

    write_bytes(output, draw_sheet(title, strips), parents=True)
    print(output)


def _suffix(what: str) -> str:
    return ".mp4" if what == "cam" else ".png"
