"""Turn an existing vanilla network into its octave version, Sec. 4.1: no layer has to be named.

Convolutions and batch norms are exchanged; everything between them is the network's own code, which runs on pairs
(:mod:`octvideo.octave.dispatch`). ``_planner`` decides which values become pairs.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from octvideo.octave._compare import find_difference, small_noise
from octvideo.octave._exchange import exchange, write_empty_pairs
from octvideo.octave._planner import Planner, fresh, shared_layers
from octvideo.octave.complexity import _Counter
from octvideo.octave.pair import split_channels
from octvideo.octave.plan import Plan

__all__ = ["LayerRow", "describe", "octavize"]


class LayerRow(NamedTuple):
    """One line of the report: a convolution, a fully connected layer, or a place where a pair is merged.

    ``before`` and ``after`` are the multiply-adds of the layer on the example input.
    """

    name: str
    kind: str
    alpha_in: float
    alpha_out: float
    before: int
    after: int


def octavize(
    model: nn.Module,
    alpha: float = 0.125,
    *,
    example_input: Tensor | Sequence[Any] | dict[str, Any] | None = None,
    multiple: int = 1,
) -> nn.Module:
    """Return the octave version of a network of 2D or 3D convolutions, with the parameters of ``model``.

    The stem and the convolutions at the final resolution stay vanilla. Between them convolutions, batch norms,
    elementwise layers, pooling, sums, concatenations, drop-path and squeeze-and-excitation work on pairs with a share
    ``alpha`` of low-frequency channels. In front of everything else the pair is merged into one tensor, which is always
    correct; the report names these places. State dict keys, shapes and values stay; with ``alpha=0`` the outputs are
    bit-identical.

    A network that :func:`octvideo.build_model` has built carries the paper's plan, which is taken instead: the result
    is the network of the same configuration at ``alpha``.

    Args:
        model: a network on ``(N, C, [T,] H, W)``; it is copied, not changed.
        alpha: share of low-frequency channels, between 0 and 1.
        example_input: a usual input, of which only shapes and dtypes are used: layers are chosen by resolution. A
            list or dict of tensors where the network takes that, a tuple where it takes several arguments. Default:
            one tensor, ``(1, C, 224, 224)`` or ``(1, C, 8, 224, 224)``, as the first convolution has it.
        multiple: the width of the low group is a multiple of it; see :func:`octvideo.octave.split_channels`.

    Returns:
        A copy of ``model``, of the same class. Its ``octave_report`` is a list of :class:`LayerRow`, which
        :func:`describe` prints; its ``octave_plan`` a :class:`octvideo.octave.plan.Plan`.

    Raises:
        ValueError: alpha or multiple is out of bounds; the network does not run on the example input; it has no
            convolution; it is octave already, or compiled, or cannot be copied; ``alpha=1`` meets maps of odd size.

    Warns:
        UserWarning: alpha is above 0 and no convolution became an octave one; it says why.
    """
    if not isinstance(alpha, Real):
        raise ValueError(f"alpha is {alpha!r}: it must be a number between 0 and 1")
    split_channels(1, alpha, multiple)  # checks both
    if alpha > 0 and getattr(model, "octave_plan", Plan()).has_pairs:
        raise ValueError(f"{type(model).__name__} is an octave network already: pass the vanilla one")
    root = _copy(model)
    given = _usual_input(root) if example_input is None else example_input
    dry, inputs, before = _run_dry(root, given if isinstance(given, tuple) else (given,))
    found = Found(Plan()) if alpha == 0 else _find_plan(root, dry, inputs, alpha, multiple)
    if alpha > 0 or not hasattr(root, "octave_plan"):  # at alpha 0 a network keeps the plan that it has
        exchange(root, found.plan)
    after = _multiply_adds(_copy_to(_device(dry), root), inputs)
    report = [LayerRow(name, "merge", share, 0.0, 0, 0) for name, share in found.merged.items()]
    modules = dict(root.named_modules())
    for name in before:
        layer = modules[name]
        alphas = getattr(layer, "alpha_in", 0.0), getattr(layer, "alpha_out", 0.0)
        report.append(LayerRow(name, type(layer).__name__, *alphas, before[name], after.get(name, 0)))
    if alpha > 0 and not found.plan.convs:
        reasons = Counter(found.reasons.values()).most_common()
        said = "; ".join(f"{count} of them: {reason}" for reason, count in reasons)
        warnings.warn(f"octavize: no convolution of {type(model).__name__} became an octave one: {said}", stacklevel=2)
    root.octave_report = report  # type: ignore[assignment]
    return root


class Found(NamedTuple):
    """A plan; where pairs are merged, with the share of low channels; why the other convolutions stay vanilla."""

    plan: Plan
    merged: Mapping[str, float] = {}
    reasons: Mapping[str, str] = {}


def _find_plan(root: nn.Module, dry: nn.Module, inputs: tuple[Any, ...], alpha: float, multiple: int) -> Found:
    """Return the network's own plan, or plan on the dry copy.

    There, plan again without pairs in the modules that compute something else on them.
    """
    if (rule := getattr(root, "octave_rule", None)) is not None:
        return Found(rule(root, alpha, multiple))
    modes = [mode for mode in (True, False) if _runs(dry, inputs, mode)]
    planner = Planner(copy.deepcopy(dry), inputs, alpha, multiple, modes=modes, shared=shared_layers(root))
    device = _device(root)
    noise = None if device.type == "meta" else small_noise(dry, inputs, device)
    while True:
        plan = planner.find()
        if noise is None:
            return Found(plan, planner.merged, planner.reasons)
        pairs = partial(write_empty_pairs, plan=plan)
        found = [find_difference(root, pairs, noise, mode) for mode in modes]
        different = next((name for name in found if name is not None), None)
        if different is None:
            return Found(plan, planner.merged, planner.reasons)
        planner.refuse(different)


def _runs(dry: nn.Module, inputs: tuple[Any, ...], mode: bool) -> bool:
    try:
        with torch.no_grad():
            copy.deepcopy(dry).train(mode)(*fresh(inputs))
    except Exception:  # the network's own code, which may raise anything
        return False
    return True


def describe(model: nn.Module) -> str:
    """The report of an octavized network as a table, with the sum of the multiply-adds in the last line."""
    report: list[LayerRow] = model.octave_report  # type: ignore[assignment]
    rows = [("layer", "kind", "alpha in", "alpha out", "M multiply-adds", "octave")]
    for row in report:
        counts = (f"{row.before / 1e6:.1f}", f"{row.after / 1e6:.1f}") if row.before else ("", "")
        rows.append((row.name, row.kind, f"{row.alpha_in:.3g}", f"{row.alpha_out:.3g}", *counts))
    before, after = (sum(getattr(row, key) for row in report) for key in ("before", "after"))
    rows.append(("total", "", "", "", f"{before / 1e6:.1f}", f"{after / 1e6:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _run_dry(root: nn.Module, given: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...], dict[str, int]]:
    """A copy of the network and an input on the meta device, where nothing is computed, and the multiply-adds.

    A network that looks at values runs on its own device instead, on the given values or on noise.
    """
    try:
        dry, inputs = _copy_to(torch.device("meta"), root), pytree.tree_map_only(Tensor, lambda x: x.to("meta"), given)
        return dry, inputs, _multiply_adds(dry, inputs)
    except ValueError:
        device = _device(root)
        if device.type == "meta":
            raise
        inputs = pytree.tree_map_only(
            Tensor, lambda x: torch.rand_like(x, device=device) if x.is_meta else x.to(device), given
        )
        dry = _copy_to(device, root)
        return dry, inputs, _multiply_adds(dry, inputs)


def _copy(model: nn.Module) -> nn.Module:
    kind = type(model).__name__
    if any(hasattr(layer, "_orig_mod") for layer in model.modules()):
        raise ValueError(f"{kind} is compiled: pass the network as it was before torch.compile, and compile the result")
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"{kind} cannot be copied: where torch.nn.utils' weight_norm, spectral_norm or prune made a weight, remove "
            f"them first (remove_weight_norm, remove_spectral_norm, prune.remove): {str(error).splitlines()[0]}"
        ) from error


def _copy_to(device: torch.device, network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to(device).eval()


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _usual_input(root: nn.Module) -> Tensor:
    for layer in root.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            size = (224, 224) if isinstance(layer, nn.Conv2d) else (8, 224, 224)
            return torch.empty(1, layer.in_channels, *size, dtype=layer.weight.dtype, device="meta")
    raise ValueError(f"{type(root).__name__} has no Conv2d or Conv3d")


def _multiply_adds(network: nn.Module, inputs: tuple[Any, ...]) -> dict[str, int]:
    """Of each convolution and fully connected layer, by name."""
    counts: dict[str, int] = {}
    running: list[_Counter] = []

    def start(*_: Any) -> None:
        running.append(_Counter())
        running[-1].__enter__()

    hooks = []
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):

            def stop(*_: Any, name: str = name) -> None:  # a default binds the name
                counter = running.pop()
                counter.__exit__(None, None, None)
                counts[name] = counts.get(name, 0) + counter.result.multiply_adds

            hooks += [layer.register_forward_pre_hook(start), layer.register_forward_hook(stop, always_call=True)]
    try:
        with torch.no_grad():
            network(*fresh(inputs))
    except Exception as error:
        shapes = [tuple(x.shape) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        raise ValueError(
            f"the network does not run on an input of shape {', '.join(map(str, shapes))}, "
            f"pass an example_input: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return counts
