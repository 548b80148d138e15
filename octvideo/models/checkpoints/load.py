"""Load weights of octvideo and of other projects into a network, and report what was loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from octvideo.errors import UserError
from octvideo.models.checkpoints.adapt import (
    Splits,
    first_other_split,
    has_octave_groups,
    join_octave_groups,
    slow_columns_first,
    strides_instead_of_pooling,
)
from octvideo.models.checkpoints.files import local_file, read_checkpoint, state_of
from octvideo.models.checkpoints.inflate import inflate
from octvideo.models.checkpoints.names import MMACTION2, layout_of, pytorchvideo_names
from octvideo.models.checkpoints.published.authors import has_authors_names, read_authors_network

__all__ = ["LoadReport", "fit", "load_weights"]

# The classifier of video networks (proj) and of image networks.
_HEAD = re.compile(r"(^|\.)(proj|fc|classifier(\.1)?)\.(weight|bias)$")


@dataclass
class LoadReport:
    """Which tensors of a checkpoint were loaded.

    Attributes:
        layout: the project whose names the file has; "" for the network's names.
        has_groups: whether the file has octave layers of an alpha of their own, as d-li14's and the authors'.
        matched: names in the network that got a tensor.
        inflated: those of ``matched`` that were 2D kernels.
        replaced: names of the head, if the number of classes differs: they stay as initialised.
        missing: names in the network without a tensor in the file.
        unexpected: names in the file that were not loaded.
        notes: other conversions, and keys to set.
    """

    layout: str = ""
    has_groups: bool = False
    matched: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        if self.layout:
            parts[0] += f" by the names of {self.layout}"
        if self.inflated:
            parts.append(f"{len(self.inflated)} kernels inflated from 2D")
        for name in ("replaced", "missing", "unexpected"):
            if names := getattr(self, name):
                word = "left out" if name == "unexpected" else name
                parts.append(f"{len(names)} {word}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
        return "; ".join([*parts, *self.notes])


def load_weights(model: nn.Module, source: str | Path, *, strict: bool = False, inflation: str = "mean") -> LoadReport:
    """Load a checkpoint of this or another project, see ``fit`` and ``docs/checkpoints.md``.

    Args:
        model: takes the weights.
        source: path or URL.
        strict, inflation: see ``fit``.

    Raises:
        UserError: the file cannot be downloaded or read; nothing fits, or with ``strict`` not everything.
    """
    path = local_file(source)
    return fit(model, state_of(read_checkpoint(path), path), path, strict=strict, inflation=inflation)


def fit(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: str | Path,
    *,
    strict: bool = False,
    inflation: str = "mean",
    hint: str = "MODEL in the configuration",
    head: Sequence[int] | None = None,
) -> LoadReport:
    """Load a state dict, with the names of this or another project, into a network at any alpha.

    A head of another number of classes stays as initialised, and 2D kernels are inflated; the report has both.

    Args:
        model: takes the weights.
        state: the weights, from ``state_of``.
        path: of the file, for messages.
        strict: everything must match (except counters of batches, which some projects do not save).
        inflation: how 2D kernels become 3D, see ``inflate``.
        hint: what errors tell the user to check.
        head: for each class of the network the row of the file's head; None for the same rows, () to keep the new head.

    Raises:
        UserError: nothing fits, a tensor has another shape, or with ``strict`` something is missing or left over.
    """
    own = model.state_dict()
    report = LoadReport()
    octave = _join_octave(state, path, report)
    found = _translate(octave.state, own, report)
    report.layout = octave.layout or report.layout
    report.has_groups = bool(octave.splits)
    report.missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if octave.is_authors and (others := [*report.missing, *report.unexpected]):
        # The authors' networks share most names: without this, weights of another network would load in part.
        raise UserError(
            f"{path}: the weights are of another network, {report.layout}: {len(others)} names are in one of the two "
            f"only ({', '.join(others[:3])}); docs/checkpoints.md has its MODEL.ARCH; check {hint}"
        )
    if report.layout == MMACTION2.name and getattr(model, "slow_frames", "every") != "every":
        report.notes.append("mmaction2 takes every r-th frame: set MODEL.SLOWFAST.SLOW_FRAMES every for the same")
    _check_groups(model, found, octave, path, report)
    fitting: dict[str, Tensor] = {}
    for key, (source, value) in found.items():
        if head is not None and _HEAD.search(key):
            if not head:
                report.replaced.append(key)
                continue
            value = value[list(head)]
        value = _reshape(value, own[key], key, inflation, report)
        if value.shape == own[key].shape:
            fitting[key] = value
            report.matched.append(key)
        elif _HEAD.search(key) and value.shape[1:] == own[key].shape[1:]:
            report.replaced.append(key)
        else:
            raise UserError(
                f"{path}: the weights are of another network ({source} has the shape {tuple(value.shape)}, the network "
                f"{tuple(own[key].shape)}); check {hint}"
            )
    if report.replaced and (head is None or head):
        key = report.replaced[0]
        report.notes.append(f"the head is new: the file has {len(found[key][1])} classes, the network {len(own[key])}")
    if not fitting:
        raise UserError(
            f"{path}: the weights are of another network (none of its tensors has a known name; the first is "
            f"{next(iter(state))}); check {hint}"
        )
    if strict and (report.missing or report.unexpected or report.replaced):
        raise UserError(f"{path}: the weights are of another network ({report}); check {hint}")
    model.load_state_dict(fitting, strict=False)
    return report


class _Joined(NamedTuple):
    """A state dict with one weight per octave convolution, the channels of their groups, and whose it is."""

    state: Mapping[str, Tensor]
    splits: dict[str, Splits]
    layout: str = ""
    alpha: float = 0.5
    is_authors: bool = False


def _join_octave(state: Mapping[str, Tensor], path: str | Path, report: LoadReport) -> _Joined:
    """Join the paths of octave layers, which the authors and d-li14 keep as separate weights."""
    if has_authors_names(state):
        authors = read_authors_network(state, path)
        report.notes += authors.notes
        return _Joined(authors.state, authors.splits, authors.name, authors.alpha, is_authors=True)
    if has_octave_groups(state):
        return _Joined(*join_octave_groups(state), "d-li14's Oct-ResNets, the groups of each layer joined")
    return _Joined(state, {})


def _translate(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], report: LoadReport
) -> dict[str, tuple[str, Tensor]]:
    """Return for names of the network the name in the file and the tensor; report on the names."""
    layout = layout_of(state)
    names: dict[str, str] | dict[str, str | None]
    if layout is None or layout.fits(own):
        names = pytorchvideo_names(state)
    else:
        report.layout = layout.name
        names = {key: layout.plain(key) for key in state}
    if layout is MMACTION2:
        state = slow_columns_first(state)
    targets = {plain: key for key, plain in pytorchvideo_names(own).items()}
    found = {targets[name]: (key, state[key]) for key, name in names.items() if name in targets}
    taken = {key for key, _ in found.values()}
    report.unexpected = [key for key in state if key not in taken]
    if layout is MMACTION2 and "lateral1.norm.weight" in targets and "lateral1.norm.weight" not in names.values():
        report.notes.append("its laterals have no norm and no ReLU: set MODEL.SLOWFAST.LATERAL_NORM False")
    return found


def _check_groups(
    model: nn.Module, found: Mapping[str, tuple[str, Tensor]], octave: _Joined, path: str | Path, report: LoadReport
) -> None:
    """Check that the octave layers of the file and of the network have the same low channels."""
    own = {key: octave.splits[source] for key, (source, _) in found.items() if source in octave.splits}
    if other := first_other_split(model, own):
        key, file, network = other
        raise UserError(
            f"{path}: the octave layer {found[key][0]} has {_words(file)}, the network {_words(network)}; set "
            f"OCTAVE.ALPHA {octave.alpha:g}, OCTAVE.STAGES [2,3,4], OCTAVE.MULTIPLE 1"
        )
    if strides_instead_of_pooling(model, own):
        video = any(isinstance(module, nn.Conv3d) for module in model.modules())
        option = "POOL_LEAVING" if video and octave.alpha else "POOL_VANILLA"
        report.notes.append(f"it pools before strided layers of one frequency: set OCTAVE.{option} True for the same")


def _words(split: Splits) -> str:
    return " -> ".join(f"{high} high + {low} low" for high, low in split)


def _reshape(value: Tensor, own: Tensor, key: str, inflation: str, report: LoadReport) -> Tensor:
    """Return a 2D kernel as a 3D one, a fully connected layer as a convolution, and other tensors unchanged."""
    if value.dim() == 4 and own.dim() == 5 and value.shape == (*own.shape[:2], *own.shape[3:]):
        report.inflated.append(key)
        return inflate(value, own.shape[2], inflation)
    if value.dim() == 2 and own.dim() > 2 and value.shape == own.shape[:2] and value.numel() == own.numel():
        return value.view(own.shape)
    return value
