"""What a layer does, found out by running it on noise: which custom layers can work on each group of a pair.

A list of known classes would never be complete; every library has its own swish.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from octvideo.octave.segments import Segments, split_segments

__all__ = ["is_channelwise_norm", "is_elementwise", "take_channels"]

_VECTORS = ("weight", "bias", "running_mean", "running_var")


def is_elementwise(function: Callable[[Tensor], Tensor], dims: int) -> bool:
    """Each output element depends on the input element in its place alone: not on the place, nor on the tensor's size.

    Args:
        function: of a tensor; it may work in place, and raise.
        dims: of the tensor, 4 or 5.
    """
    shape = (3, 8, 2, 5, 7) if dims == 5 else (3, 8, 5, 7)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(0)
        x, other = 2 * torch.randn(shape), 2 * torch.randn(shape)
        order, half = torch.randperm(x.numel()), torch.rand(shape) < 0.5
        try:
            y, moved, mixed = (
                function(value.clone()) for value in (x, x.flatten()[order].view(shape), torch.where(half, other, x))
            )
            if not all(isinstance(value, Tensor) and value.shape == shape for value in (y, moved, mixed)):
                return False
            # Of fewer channels and of a smaller map, as the groups of a pair are.
            parts = [(slice(None), slice(4)), (..., slice(3), slice(4))]
            if not all(_close(function(x[part].clone()), y[part]) for part in parts):
                return False
        except Exception:  # the network's own code, which may raise anything
            return False
    return _close(moved.flatten(), y.flatten()[order]) and _close(mixed[~half], y[~half])


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)  # vector units and their remainder differ


def take_channels(norm: nn.Module, keep: int, segments: Segments) -> nn.Module | None:
    """A copy of a batch norm, or of a subclass, for the high (``keep=0``) or the low (1) channels; None if none."""
    width = sum(segment[keep] for segment in segments)
    if not width:
        return None
    tensors = dict(norm.named_parameters(recurse=False)) | dict(norm.named_buffers(recurse=False))
    # The copy takes the parts in place of the whole vectors.
    parts = {
        id(tensors[name]): _part(tensors[name], split_segments(tensors[name].detach(), segments, 0)[keep])
        for name in _VECTORS
        if name in tensors
    }
    taken: nn.Module = copy.deepcopy(norm, parts)
    taken.num_features = width  # type: ignore[assignment]
    return taken


def _part(whole: Tensor, part: Tensor) -> Tensor:
    part = part.clone()
    return nn.Parameter(part, whole.requires_grad) if isinstance(whole, nn.Parameter) else part


def is_channelwise_norm(norm: nn.Module, dims: int) -> bool:
    """A batch norm, or one with an activation in it: the copies for the two groups do together what it does."""
    if set(norm.state_dict()) - {*_VECTORS, "num_batches_tracked"}:
        return False
    if type(norm) in (nn.BatchNorm2d, nn.BatchNorm3d):
        return True
    channels = int(norm.num_features)  # type: ignore[arg-type]
    segments: Segments = ((channels - channels // 2, channels // 2),)
    shape = (3, channels, 2, 3, 2) if dims == 5 else (3, channels, 3, 2)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
        torch.manual_seed(0)
        x = 2 * torch.randn(shape)
        probe = copy.deepcopy(norm).to_empty(device="cpu").float()
        for tensor in (*probe.parameters(), *probe.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
        try:
            for mode in (True, False):
                probe.train(mode)
                halves = [take_channels(probe, keep, segments) for keep in (0, 1)]
                parts = [half(x) for half, x in zip(halves, x.split(list(segments[0]), 1)) if half is not None]
                if not _close(torch.cat(parts, 1), probe(x)):
                    return False
        except Exception:
            return False
    return True
