"""Count the networks of the paper's tables, next to the figures that the paper prints."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from octvideo.analysis.image_tables import IMAGE_TABLES, image_table_rows
from octvideo.config import load_cfg
from octvideo.models.build import build_model
from octvideo.octave import OctaveTensor, OctConv2d
from octvideo.octave.complexity import count

__all__ = ["TABLES", "table_rows"]


@dataclass(frozen=True)
class _Row:
    model: str
    config: str
    alpha: float
    gflops: float
    overrides: tuple[str, ...] = ()
    pooling: bool = True  # counted with pooling


# The baselines have the layout of the non-local networks' authors: no padding in the first pool.
_UNPADDED = ("MODEL.STEM_POOL_PADDED", "False")
# The figures of alpha 0.2 and 0.5 need octave in res5 too, the low map pooled before strided L->H paths, and a count of
# convolutions and the classifier only.
_RES5 = (*_UNPADDED, "OCTAVE.STAGES", "[2, 3, 4, 5]", "OCTAVE.POOL_STRIDED_LOW_TO_HIGH", "True")

_TABLE_6 = (
    _Row("i3d_r50", "i3d_k400", 0.0, 28.1, _UNPADDED),
    _Row("i3d_r50", "i3d_k400", 0.1, 25.6, _UNPADDED),
    _Row("i3d_r50", "i3d_k400", 0.2, 22.1, _RES5, pooling=False),
    _Row("i3d_r50", "i3d_k400", 0.5, 15.3, _RES5, pooling=False),
    _Row("c2d_r50", "c2d_k400", 0.0, 19.3, _UNPADDED),
    _Row("c2d_r50", "c2d_k400", 0.1, 17.4, _UNPADDED),
    _Row("i3d_nln_r50", "i3d_nln_k400", 0.0, 33.3, _UNPADDED),
    _Row("i3d_nln_r50", "i3d_nln_k400", 0.1, 28.9, _UNPADDED),
    _Row("slowfast_r50", "slowfast_k400", 0.0, 27.6),
    _Row("slowfast_r50", "slowfast_k400", 0.1, 24.5),
    _Row("slowfast_r50", "slowfast_k400", 0.2, 22.9),
)

# Table 1: share of the vanilla cost, in percent: alpha -> (multiply-adds, memory of the features).
_TABLE_1 = {
    0.0: (100, 100),
    0.125: (82, 91),
    0.25: (67, 81),
    0.5: (44, 63),
    0.75: (30, 44),
    0.875: (26, 35),
    1.0: (25, 25),
}

TABLES = tuple(sorted((1, 6, *IMAGE_TABLES)))


def table_rows(table: int) -> list[dict[str, object]]:
    """Return the rows of a table: ``{"model", "alpha", "paper_gflops", "gflops", "paper_params_m", "params_m"}`` each.

    Table 6 is counted on one clip of 224x224; ``overrides`` and ``pooling`` describe how. Tables 2 to 5 and 9 are
    counted on one image; ``input`` is its size and ``network`` a key of ``IMAGE_NETWORKS``. Table 1 has percentages of
    the vanilla layer instead of billions, and also ``paper_memory`` and ``memory``.
    """
    if table in IMAGE_TABLES:
        return list(image_table_rows(table))
    return _table_1() if table == 1 else [_table_6_row(row) for row in _TABLE_6]


def _table_6_row(row: _Row) -> dict[str, object]:
    cfg = load_cfg(f"{row.config}.yaml", ["OCTAVE.ALPHA", str(row.alpha), *row.overrides])
    measured = count(build_model(cfg), (1, 3, cfg.DATA.NUM_FRAMES, 224, 224)).as_dict()
    return {
        "model": row.model,
        "alpha": row.alpha,
        "paper_gflops": row.gflops,
        "gflops": measured["gflops_with_pooling" if row.pooling else "gflops"],
        "paper_params_m": None,
        "params_m": measured["params_m"],
        "pooling": row.pooling,
        "overrides": list(row.overrides),
    }


def _table_1() -> list[dict[str, object]]:
    """Compare one 3x3 convolution of 64 channels on a 56x56 map with its vanilla form."""
    channels, edge = 64, 56

    def layer_cost(alpha: float) -> tuple[int, int]:
        conv = OctConv2d(channels, channels, 3, padding=1, bias=False, alpha_in=alpha, alpha_out=alpha)
        features = _Features(conv)
        return count(features, (1, channels, edge, edge)).multiply_adds, features.memory

    vanilla_cost, vanilla_memory = layer_cost(0.0)
    rows: list[dict[str, object]] = []
    for alpha, (paper_cost, paper_memory) in _TABLE_1.items():
        cost, memory = layer_cost(alpha)
        rows.append(
            {
                "model": "conv3x3",
                "alpha": alpha,
                "paper_gflops": paper_cost,
                "gflops": 100 * cost / vanilla_cost,
                "paper_params_m": None,
                "params_m": channels * channels * 9 / 1e6,
                "paper_memory": paper_memory,
                "memory": 100 * memory / vanilla_memory,
            }
        )
    return rows


class _Features(torch.nn.Module):
    """Feeds a convolution the pair that it expects, and counts the elements of its output."""

    def __init__(self, conv: OctConv2d) -> None:
        super().__init__()
        self.conv = conv
        self.memory = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        high = x[:, : conv.in_high] if conv.in_high else None
        low = x[:, conv.in_high :, ::2, ::2] if conv.in_low else None
        y = conv(OctaveTensor(high, low) if conv.alpha_in else x)
        groups = y if isinstance(y, OctaveTensor) else (y,)
        self.memory = sum(group.numel() for group in groups if group is not None)
        return x
