"""A plan is data: which layers of a vanilla network become octave, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from octvideo.octave.ablations import Ablation
from octvideo.octave.segments import Segments

__all__ = ["ConvPlan", "Plan"]


class ConvPlan(NamedTuple):
    """The frequencies of a convolution; the fields are arguments of ``OctConv2d``."""

    alpha_in: float
    alpha_out: float
    in_segments: Segments | None = None


@dataclass
class Plan:
    """What becomes of the layers of a network, by their names.

    Attributes:
        multiple: of the convolutions' low channels.
        convs: convolutions. With an ablation, one whose alphas are 0 pools before its stride.
        norms: batch norms, with the channels of the pairs that they take.
        maps: modules without tensors that are called for each group.
        merges: modules that are given merged tensors.
        ablation: how the convolutions differ from Eq. 4; None: not at all.
    """

    multiple: int = 1
    convs: dict[str, ConvPlan] = field(default_factory=dict)
    norms: dict[str, Segments] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    merges: set[str] = field(default_factory=set)
    ablation: Ablation | None = None

    @property
    def has_pairs(self) -> bool:
        """Tell whether any convolution reads or writes a pair."""
        return any(ends.alpha_in or ends.alpha_out for ends in self.convs.values())

    def __str__(self) -> str:
        alphas = sorted({alpha for ends in self.convs.values() for alpha in ends[:2] if alpha})
        if not alphas:
            return "no octave layers"
        layers = sum(1 for ends in self.convs.values() if any(ends[:2]))
        multiple = f" in multiples of {self.multiple}" if self.multiple > 1 else ""
        ablated = " with an ablation" if self.ablation is not None and self.ablation != Ablation() else ""
        return f"{layers} octave layers of alpha {', '.join(f'{alpha:.4g}' for alpha in alphas)}{multiple}{ablated}"

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as numbers, strings, lists and dicts, as it is stored in checkpoints."""
        return {
            "multiple": self.multiple,
            "convs": {name: [*ends[:2], _as_lists(ends.in_segments)] for name, ends in self.convs.items()},
            "norms": {name: _as_lists(segments) for name, segments in self.norms.items()},
            "maps": sorted(self.maps),
            "merges": sorted(self.merges),
            "ablation": None if self.ablation is None else asdict(self.ablation),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Plan:
        """Return the plan that :meth:`as_dict` has written."""
        return cls(
            stored["multiple"],
            {name: ConvPlan(a, b, _as_segments(order)) for name, (a, b, order) in stored["convs"].items()},
            {name: tuple((high, low) for high, low in order) for name, order in stored["norms"].items()},
            set(stored["maps"]),
            set(stored["merges"]),
            None if stored["ablation"] is None else Ablation(**stored["ablation"]),
        )


def _as_lists(segments: Segments | None) -> list[list[int]] | None:
    return None if segments is None else [list(widths) for widths in segments]


def _as_segments(stored: list[list[int]] | None) -> Segments | None:
    return None if stored is None else tuple((high, low) for high, low in stored)
