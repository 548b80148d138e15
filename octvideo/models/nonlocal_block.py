"""The non-local block (Wang et al., CVPR 2018) on two frequencies.

Attention needs one map. The block's 1x1 convolutions convert: theta, phi and g take the pair and return one tensor
(alpha_out = 0), the output convolution takes the tensor and returns a pair (alpha_in = 0). So the block has the
parameters, keys and shapes of the vanilla one at every alpha.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, fx, nn

from octvideo.octave import Feature, OctaveTensor, add

__all__ = ["NonLocal"]


class NonLocal(nn.Module):
    """Embedded-Gaussian non-local block that starts as the identity; keys and values are max-pooled by (1, 2, 2).

    The submodules are named as in ``pytorchvideo.layers.nonlocal_net.NonLocal`` and compute the same function (through
    PyTorch's fused attention, which does not store the (THW)^2 affinities).

    Args:
        dim_in: channels of input and output.
        dim_inner: channels inside, half of ``dim_in`` in the paper.
    """

    def __init__(self, dim_in: int, dim_inner: int) -> None:
        super().__init__()
        self.conv_theta, self.conv_phi, self.conv_g = (nn.Conv3d(dim_in, dim_inner, 1) for _ in range(3))
        self.conv_out = nn.Conv3d(dim_inner, dim_in, 1)
        self.norm = nn.BatchNorm3d(dim_in)
        self.norm.block_final_bn = True  # type: ignore[assignment]  # PyTorchVideo's mark for initialisation to zero

    def forward(self, x: Feature) -> Feature:
        """Add to each position what it attends to: a tensor or a pair to the same shapes."""
        pooled = _pool(x)
        theta, phi, g = self.conv_theta(x), self.conv_phi(pooled), self.conv_g(pooled)
        query, key, value = (map_.flatten(2).transpose(1, 2).unsqueeze(1) for map_ in (theta, phi, g))
        attended = F.scaled_dot_product_attention(query, key, value).squeeze(1)  # (N, T * H * W, C)
        return add(x, self.norm(self.conv_out(attended.transpose(1, 2).reshape(theta.shape))))


def _pool(x: Feature) -> Feature:
    """Max-pool by (1, 2, 2), by 1 along an edge of 1; the low map stays half of the high one's size, rounded up."""
    if not isinstance(x, OctaveTensor):
        return F.max_pool3d(x, _kernel(x))
    if x.high is None or x.low is None:
        return x.map(lambda group: F.max_pool3d(group, _kernel(group)))
    high = F.max_pool3d(x.high, _kernel(x.high))
    height, width = ((edge + 1) // 2 for edge in high.shape[-2:])
    low: Tensor = F.max_pool3d(x.low, (1, 2, 2), ceil_mode=True)
    return OctaveTensor(high, low[..., :height, :width])


@fx.wrap
def _kernel(x: Tensor) -> tuple[int, int, int]:
    height, width = x.shape[-2:]
    return 1, min(2, height), min(2, width)
