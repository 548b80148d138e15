"""Count the cost of a network like the paper's "#FLOPs".

Multiply-adds of convolutions (one more per output element where there is a bias) and of fully connected layers. Pooling
is counted beside them: outputs times kernel area, global pooling by its inputs; and so are the elements that go through
a ReLU. Batch norm, additions, other activations, up-sampling and the matrix products of attention are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Complexity", "count"]

_aten = torch.ops.aten


@dataclass
class Complexity:
    """The cost of one forward pass.

    Attributes:
        params: number of parameters.
        multiply_adds: of convolutions and fully connected layers.
        pooling: operations of pooling layers.
        relus: elements that go through a ReLU.
        activations: elements of the outputs of convolutions and fully connected layers.
    """

    params: int = 0
    multiply_adds: int = 0
    pooling: int = 0
    relus: int = 0
    activations: int = 0

    def as_dict(self) -> dict[str, float]:
        """Return millions of parameters and activations, billions of operations."""
        return {
            "params_m": self.params / 1e6,
            "gflops": self.multiply_adds / 1e9,
            "gflops_with_pooling": (self.multiply_adds + self.pooling) / 1e9,
            "activations_m": self.activations / 1e6,
        }


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.result = Complexity()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet, result = func.overloadpacket, self.result
        if packet is _aten.convolution:
            weight, bias = args[1], args[2]
            result.multiply_adds += out.numel() * (weight[0].numel() + (bias is not None))
            result.activations += out.numel()
        elif packet in (_aten.addmm, _aten.mm):
            result.multiply_adds += out.numel() * args[-2].shape[-1]
            result.activations += out.numel()
        elif packet in (_aten.avg_pool2d, _aten.avg_pool3d):
            result.pooling += out.numel() * math.prod(args[1])
        elif packet in (_aten.max_pool2d_with_indices, _aten.max_pool3d_with_indices):
            result.pooling += out[0].numel() * math.prod(args[1])
        elif packet is _aten.maximum:  # pooling of two frames
            result.pooling += 2 * out.numel()
        elif packet in (_aten._adaptive_avg_pool2d, _aten._adaptive_avg_pool3d, _aten.mean):
            result.pooling += args[0].numel()
        elif packet in (_aten.relu, _aten.relu_):
            result.relus += out.numel()
        return out


def count(model: nn.Module, shape: Sequence[int], *, meta: bool = True) -> Complexity:
    """Count one forward pass of ``model``, in evaluation mode, on an input of ``shape``, batch included.

    Args:
        model: any network; it is left as it was.
        shape: of its one input, e.g. ``(1, 3, 8, 224, 224)``.
        meta: run it on the meta device, where nothing is computed; False: where it is.
    """
    tensors = {name: tensor for part in (model.named_parameters, model.named_buffers) for name, tensor in part()}
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    attention: AbstractContextManager[Any] = nullcontext()
    if meta:
        device = torch.device("meta")
        tensors = {name: tensor.detach().to(device) for name, tensor in tensors.items()}
        # Fused attention kernels lack meta implementations for some shapes; the plain kernel has one, and is not
        # counted.
        attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    counter = _Counter()
    modes = {module: module.training for module in model.modules()}
    clip: Tensor = torch.zeros(tuple(shape), device=device)
    try:
        with torch.no_grad(), attention, counter:
            functional_call(model.eval(), tensors, (clip,))
    finally:
        for module, training in modes.items():
            module.training = training
    counter.result.params = sum(parameter.numel() for parameter in model.parameters())
    return counter.result
