"""``tools/analyze_frequency.py``: Fourier energy of a network's feature maps by group (the paper's Figure 4)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octvideo.cli.arguments import path_arg, positive_int
from octvideo.errors import UserError

if TYPE_CHECKING:
    from octvideo.analysis.frequency import Spectrum

__all__ = ["main"]

_MOST_LAYERS = 64  # a picture of more would be too tall


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="octvideo analyze-frequency",
        description=__doc__.split(": ", 1)[1],
        epilog="Writes frequency.csv and frequency.png. Exit code: 0; 2 if a file could not be read.",
    )
    parser.add_argument("--cfg", metavar="FILE", help="configuration; without --checkpoint the weights are random")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights; default without --cfg: the small model that ships with octvideo"
    )
    parser.add_argument("--baseline-cfg", metavar="FILE", help="a vanilla network to compare with: its configuration")
    parser.add_argument("--baseline-checkpoint", metavar="FILE", help="and its weights")
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="PATH", help="images, videos, folders of them, lists (path label)"
    )
    parser.add_argument(
        "--layers", nargs="+", default=[], metavar="REGEX", help="names of stages or modules; default: all stages"
    )
    parser.add_argument("--output", required=True, type=path_arg, metavar="DIR", help="folder for the files")
    parser.add_argument("--views", type=positive_int, default=1, metavar="N", help="clips per video (1: its middle)")
    parser.add_argument("--bins", type=positive_int, default=16, metavar="N", help="of the frequency axis (16)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Analyse all files that can be read; return 2 if one could not.

    Raises:
        UserError: bad weights, configuration or layers, no file that can be read, a folder that cannot be written.
    """
    args = _parse(argv)
    missing = next((path for path in args.data if not path or not Path(path).exists()), None)
    if missing is not None:
        raise UserError(f"--data {missing}: no such file or folder")
    # Torch takes seconds to import: --help and wrong arguments come first.
    from octvideo.analysis.frequency import find_inputs, layers_of, measure, network_of
    from octvideo.analysis.frequency_report import as_csv, as_numbers, draw
    from octvideo.device import resolve_device
    from octvideo.files import write_bytes, write_text

    device = resolve_device(args.device)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error.strerror}); choose another one") from None
    inputs = find_inputs(args.data)
    network = network_of(args.checkpoint, args.cfg)
    layers = layers_of(network.model, args.layers)
    if len(layers) > _MOST_LAYERS:
        raise UserError(f"--layers: {len(layers)} layers match; choose at most {_MOST_LAYERS}")
    baseline = None
    if args.baseline_cfg or args.baseline_checkpoint:
        baseline = network_of(args.baseline_checkpoint, args.baseline_cfg)
        octave = baseline.cfg.OCTAVE
        if octave.ALPHA or octave.FAST_ALPHA:
            raise UserError(f"the baseline has OCTAVE.ALPHA {octave.ALPHA:g}: give a vanilla one with --baseline-cfg")
    spectra, failed = measure(network, layers, inputs, views=args.views, device=device)
    if not spectra:
        raise UserError(f"{failed[0].path}: cannot be decoded ({failed[0].reason}), nor can any other file of --data")
    if baseline is not None:
        names = layers_of(baseline.model, args.layers)
        vanilla, _ = measure(baseline, names, inputs, views=args.views, device=device, baseline=True)
        _check_sizes(spectra, vanilla)
        spectra = [*spectra, *vanilla]
    rows = as_numbers(spectra, args.bins)
    table, picture = args.output / "frequency.csv", args.output / "frequency.png"
    write_text(table, as_csv(rows))
    write_bytes(picture, draw(spectra, rows))
    for failure in failed:
        print(f"error: {failure.path}: cannot be decoded ({failure.reason})", file=sys.stderr)
    found = {
        "files": len(inputs) - len(failed),
        "failed": [failure._asdict() for failure in failed],
        "csv": str(table),
        "picture": str(picture),
        "groups": rows,
    }
    print(json.dumps(found) if args.json else _as_text(found))
    return 2 if failed else 0


def _check_sizes(spectra: Sequence[Spectrum], vanilla: Sequence[Spectrum]) -> None:
    """Check that both networks have maps of one size: the frequency axis is relative to it."""
    sizes = {found.layer: tuple(found.energy.mean.shape) for found in spectra if found.group != "low"}
    for found in vanilla:
        size, own = tuple(found.energy.mean.shape), sizes.get(found.layer)
        if own not in (None, size):
            raise UserError(
                f"{found.layer}: the baseline has maps of {size}, the network of {own}; "
                "the two configurations need the same DATA.TEST_CROP"
            )


def _as_text(found: dict[str, Any]) -> str:
    rows = found["groups"]
    wide = max(len(row["layer"]) for row in rows) + 2
    lines = [
        f"{found['files']} files; frequency 1: Nyquist of the high group along both axes",
        "",
        f"{'layer':{wide}s}{'group':10s}{'size':>8s}{'maps':>9s}{'silent':>8s}{'mean':>8s}{'at 0':>8s}{'> 0.5':>8s}",
    ]
    for row in rows:
        size = "x".join(map(str, row["size"]))
        lines.append(
            f"{row['layer']:{wide}s}{row['group']:10s}{size:>8s}{row['maps']:>9d}{row['silent']:>8d}"
            f"{row['mean_frequency']:>8.3f}{row['cumulative'][0]:>8.3f}{row['above_half']:>8.3f}"
        )
    return "\n".join([*lines, "", found["csv"], found["picture"]])
