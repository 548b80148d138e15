"""Weights of this and of other projects into a network, with a report of what became of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    """What became of a checkpoint's tensors.

    Attributes:
        layout: whose names the file has; "" for those of the network.
        matched: names in the network that got a tensor.
        inflated: those of them that were 2D kernels.
        replaced: the head's, where the number of classes differs: they stay as initialised.
        missing: names in the network that the file has nothing for.
        unexpected: names in the file that were left out.
        notes: what else was converted, or should be known.
    """

    layout: str = ""
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
    """Loads a checkpoint of this or another project: see ``fit`` for what may differ and ``docs/checkpoints.md``.

    Args:
        model: takes the weights.
        source: path or URL.
        strict, inflation: see ``fit``.

    Raises:
        UserError: the file cannot be got or read; nothing fits, or with ``strict`` not everything.
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
    """Loads a state dict, under the names of this or another project, into a network at any alpha.

    A head of another number of classes stays as it was initialised, and 2D kernels are inflated; both are reported.

    Args:
        model: takes the weights.
        state: the weights, from ``state_of``.
        path: of the file, for messages.
        strict: everything must match (counters of batches aside, which some projects do not save).
        inflation: how 2D kernels become 3D, see ``inflate``.
        hint: what errors tell the user to check.
        head: for each class of the network the row of the file's head; None for the same, () to keep the new head.

    Raises:
        UserError: nothing fits, a tensor has another shape, or with ``strict`` something is missing or left over.
    """
    own = model.state_dict()
    report = LoadReport()
    splits: dict[str, Splits] = {}
    alpha, layout = 0.5, ""
    authors = read_authors_network(state, path) if has_authors_names(state) else None
    if authors:
        state, splits, layout, alpha, report.notes = authors
    elif has_octave_groups(state):
        state, splits = join_octave_groups(state)
        layout = "d-li14's Oct-ResNets, the groups of each layer joined"
    found = _translate(state, own, report)
    report.layout = layout or report.layout
    report.missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if authors and (others := [*report.missing, *report.unexpected]):
        # Their networks have most names in common, so nothing is loaded of another one.
        raise UserError(
            f"{path}: the weights are of another network, {layout}: {len(others)} names are in one of the two alone "
            f"({', '.join(others[:3])}); docs/checkpoints.md has its MODEL.ARCH; check {hint}"
        )
    if report.layout == MMACTION2.name and getattr(model, "slow_frames", "every") != "every":
        report.notes.append("mmaction2 takes every r-th frame: MODEL.SLOWFAST.SLOW_FRAMES every does the same")
    _check_groups(model, found, splits, path, report, alpha)
    fitting: dict[str, Tensor] = {}
    for key, (source, value) in found.items():
        if head is not None and _HEAD.search(key):
            if not head:
                report.replaced.append(key)
                continue
            value = value[list(head)]
        value = _shaped(value, own[key], key, inflation, report)
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
            f"{path}: the weights are of another network (no tensor has a known name: {next(iter(state))} for one); "
            f"check {hint}"
        )
    if strict and (report.missing or report.unexpected or report.replaced):
        raise UserError(f"{path}: the weights are of another network ({report}); check {hint}")
    model.load_state_dict(fitting, strict=False)
    return report


def _translate(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], report: LoadReport
) -> dict[str, tuple[str, Tensor]]:
    """For names of the network: the name in the file and the tensor. Fills in what the report says about names."""
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
        report.notes.append("its laterals have no norm and no ReLU: MODEL.SLOWFAST.LATERAL_NORM must be False")
    return found


def _check_groups(
    model: nn.Module,
    found: Mapping[str, tuple[str, Tensor]],
    splits: Mapping[str, Splits],
    path: str | Path,
    report: LoadReport,
    alpha: float,
) -> None:
    """Octave weights mean nothing where the frequencies of a layer are others."""
    own = {key: splits[source] for key, (source, _) in found.items() if source in splits}
    if other := first_other_split(model, own):
        key, file, network = other
        raise UserError(
            f"{path}: the octave layer {found[key][0]} has {_words(file)}, the network {_words(network)}; set "
            f"OCTAVE.ALPHA {alpha:g}, OCTAVE.STAGES [2,3,4], OCTAVE.MULTIPLE 1"
        )
    if strides_instead_of_pooling(model, own):
        video = any(isinstance(module, nn.Conv3d) for module in model.modules())
        option = "POOL_LEAVING" if video and alpha else "POOL_VANILLA"
        report.notes.append(f"it pools before strided layers of one frequency: OCTAVE.{option} True does the same")


def _words(split: Splits) -> str:
    return " -> ".join(f"{high} high + {low} low" for high, low in split)


def _shaped(value: Tensor, own: Tensor, key: str, inflation: str, report: LoadReport) -> Tensor:
    """A 2D kernel as a 3D one, a fully connected layer as a convolution; otherwise the tensor as it is."""
    if value.dim() == 4 and own.dim() == 5 and value.shape == (*own.shape[:2], *own.shape[3:]):
        report.inflated.append(key)
        return inflate(value, own.shape[2], inflation)
    if value.dim() == 2 and own.dim() > 2 and value.shape == own.shape[:2] and value.numel() == own.numel():
        return value.view(own.shape)
    return value
