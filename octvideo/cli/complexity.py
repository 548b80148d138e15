"""``tools/complexity.py``: count parameters, multiply-adds and activations of a configuration or a paper's table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from octvideo.cli.arguments import add_config_arguments
from octvideo.config import load_cfg
from octvideo.errors import UserError

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="octvideo complexity", description=__doc__.split(": ", 1)[1])
    add_config_arguments(parser)
    parser.add_argument("--table", type=int, help="a table of the paper: its figures and ours")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Count one clip at the training size, batch 1, and print."""
    args = _parser().parse_intermixed_args(argv)
    if (args.cfg is None) == (args.table is None):
        raise UserError("complexity: give either --cfg FILE or --table N")
    if args.table is not None and args.overrides:
        raise UserError(
            f"{args.overrides[0]}: --table has the paper's networks; keys can be changed only with --cfg FILE"
        )
    from octvideo.analysis.paper_tables import TABLES, table_rows
    from octvideo.models import build_model
    from octvideo.octave.complexity import count

    if args.table is not None:
        if args.table not in TABLES:
            raise UserError(f"--table {args.table}: the tables are {', '.join(map(str, TABLES))}")
        rows = table_rows(args.table)
        print(json.dumps(rows, indent=1) if args.json else _as_text(rows))
        return 0
    cfg = load_cfg(args.cfg, args.overrides)
    size = cfg.DATA.TRAIN_CROP
    result = count(build_model(cfg), (1, 3, cfg.DATA.NUM_FRAMES, size, size)).as_dict()
    if args.json:
        print(json.dumps(result))
    else:
        print(f"one clip of {cfg.DATA.NUM_FRAMES} x {size} x {size}, alpha {cfg.OCTAVE.ALPHA:g}")
        for name, value in result.items():
            print(f"{name:22s}{value:10.3f}")
    return 0


def _as_text(rows: list[dict[str, object]]) -> str:
    wide = max(len(str(row["model"])) for row in rows) + 2
    lines = [f"{'model':{wide}s}{'alpha':>7s}{'input':>7s}{'paper':>9s}{'ours':>9s}{'diff %':>9s}{'params M':>10s}"]
    for row in rows:
        paper, ours = float(row["paper_gflops"]), float(row["gflops"])  # type: ignore[arg-type]
        lines.append(
            f"{row['model']!s:{wide}s}{row['alpha']:>7g}{row.get('input', '')!s:>7s}{paper:>9.3f}{ours:>9.3f}"
            f"{100 * (ours / paper - 1):>9.2f}{row['params_m']:>10.3f}"
        )
    return "\n".join(lines)
