"""Whether a network's code does on pairs what it does on tensors, shown on noise.

Code can tell them apart: ``isinstance(x, Tensor)``. So it runs twice, on tensors and on pairs whose low group is empty.
Both must give the same values in every module.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from octvideo.octave.complexity import _Counter
from octvideo.octave.layers import merge
from octvideo.octave.pair import OctaveTensor

__all__ = ["find_difference", "small_noise"]

# Images are made this many times as small, where the network takes them: noise shows a difference at any size.
_FACTORS = (8, 4, 2, 1)
_MOST = 20e9  # multiply-adds of a run: some seconds on a processor


def find_difference(
    network: nn.Module, pairs: Callable[[nn.Module], nn.Module], inputs: tuple[Any, ...], mode: bool
) -> str | None:
    """Return the name of the first module that computes something else on pairs; None if there is none.

    Args:
        network: the vanilla network, on the device of ``inputs``.
        pairs: makes a copy of it write pairs whose low group is empty.
        inputs: its arguments.
        mode: True is training.
    """
    runs = []
    for prepare in (copy.deepcopy, lambda root: pairs(copy.deepcopy(root))):
        runs.append(_record(prepare(network).train(mode), inputs))
    expected, got = runs
    for (name, values), (other, others) in zip(expected, got):
        if name != other or not _equal(values, others):
            return name
    return None if len(expected) == len(got) else ""


def _record(network: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[str, list[Tensor]]]:
    """Return what each module returned, in the order in which they ended."""
    record: list[tuple[str, list[Tensor]]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, y: Any) -> None:
            leaves = pytree.tree_leaves(y, is_leaf=lambda x: isinstance(x, OctaveTensor))
            record.append((name, [merge(x).clone() for x in leaves if isinstance(x, (Tensor, OctaveTensor))]))

        return hook

    for name, layer in network.named_modules():
        layer.register_forward_hook(note(name))
    python = random.getstate()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        random.seed(0)
        try:
            network(*pytree.tree_map_only(Tensor, torch.clone, inputs))
        finally:
            random.setstate(python)
    return record


def _equal(xs: list[Tensor], ys: list[Tensor]) -> bool:
    return len(xs) == len(ys) and all(
        x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
        for x, y in zip(xs, ys)
    )


def small_noise(dry: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Any:
    """Return noise of the smallest size on which the network runs in both modes; None if it takes too long.

    Args:
        dry: a copy of the network, on which sizes are tried; at no cost where it is on the meta device.
        inputs: its arguments, of any device and any values.
        device: of the result.
    """
    where = next((x.device for x in dry.parameters()), device)
    for factor in _FACTORS:
        noise = pytree.tree_map_only(Tensor, lambda x: _noise(x, factor, device), inputs)  # noqa: B023  # called now
        try:
            for mode in (True, False):
                with torch.random.fork_rng(), torch.no_grad(), _Counter() as counter:
                    copy.deepcopy(dry).train(mode)(
                        *pytree.tree_map_only(Tensor, lambda x: x.to(where, copy=True), noise)
                    )
        except Exception:  # too small, as a rule
            continue
        return noise if counter.result.multiply_adds <= _MOST else None
    return None


def _noise(x: Tensor, factor: int, device: torch.device) -> Tensor:
    shape = list(x.shape)
    if x.dim() in (4, 5):
        shape[0] = max(shape[0], 2)  # a batch norm wants more than one value a channel
        shape[-2:] = (math.ceil(edge / factor) for edge in shape[-2:])
    if not x.is_floating_point():
        return torch.zeros(shape, dtype=x.dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator).to(device, x.dtype)
