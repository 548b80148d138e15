"""Whether the graph that torch.fx made of a module does what the module does.

torch.fx runs a module's code once with symbols. What the code does beside tensors it does not see: a draw of Python's
random numbers, ``if isinstance(x, Tensor)``, a tensor changed under a second name. So both run on noise.
"""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from octvideo.octave.complexity import _Counter

__all__ = ["compare"]

# Images are made this many times as small, where the module takes them: noise shows a difference at any size.
_FACTORS = (8, 4, 2, 1)
_MOST = 20e9  # multiply-adds of a run: some seconds on a processor


def compare(module: nn.Module, graph: fx.Graph, dry: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Runs both in the mode that the module is in, with the same random numbers, on the smallest maps that it takes.

    A module that cannot run on noise of any size tried, that takes more than ``_MOST`` multiply-adds there, or
    that has no values yet (meta device), is not compared.

    Args:
        dry: a copy of the module, on which sizes are tried; at no cost where it is on the meta device.
        inputs: positional arguments of the module, of any device and any values.

    Raises:
        ValueError: the results, or the random numbers used, differ.
    """
    tensors = [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    if any(x.is_meta for x in tensors):
        return
    found = _small_inputs(dry, inputs, module.training, device)
    if found is None:
        return
    python, results = random.getstate(), []
    with torch.random.fork_rng(), torch.no_grad():
        for which in ("module", "graph"):
            twin = copy.deepcopy(module)  # the statistics of norms change
            traced: Any = twin if which == "module" else fx.GraphModule(twin, copy.deepcopy(graph))
            torch.manual_seed(0)
            random.seed(0)
            try:
                value = traced(*pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, found))
            except Exception:  # the network's own code, which may raise anything
                if which == "module":
                    return
                raise
            finally:
                state = random.getstate()
                random.setstate(python)
            results.append((value, state, torch.get_rng_state()))
    (expected, state, noise), (got, graph_state, graph_noise) = results
    name = type(module).__name__
    if state != graph_state or not torch.equal(noise, graph_noise):
        raise ValueError(f"{name} draws random numbers that the graph does not draw")
    if not _equal(expected, got):
        raise ValueError(f"{name} computes something else than its graph on the same input")


def _small_inputs(dry: nn.Module, inputs: tuple[Any, ...], training: bool, device: torch.device) -> Any:
    """Noise of the smallest size on which the network runs; None where there is none."""
    probe = copy.deepcopy(dry).train(training)
    where = next((x.device for x in probe.parameters()), device)
    for factor in _FACTORS:
        noise = pytree.tree_map_only(Tensor, lambda x: _noise(x, factor, device), inputs)  # noqa: B023  # called now
        try:
            with torch.random.fork_rng(), torch.no_grad(), _Counter() as counter:
                probe(*pytree.tree_map_only(Tensor, lambda x: x.to(where, copy=True), noise))
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


def _equal(a: Any, b: Any) -> bool:
    xs, ys = ([x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)] for value in (a, b))
    return len(xs) == len(ys) and all(
        x.shape == y.shape and torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-5, equal_nan=True)
        for x, y in zip(xs, ys)
    )
