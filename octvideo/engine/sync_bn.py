"""Batch norm over the batch of all processes."""

from __future__ import annotations

import torch
from fvcore.nn.distributed import differentiable_all_gather
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["synchronise_batch_norm"]


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch statistics over all ranks, also in a pair's two groups; the state dict stays.

    The process must have joined a process group. On CUDA the layers become ``nn.SyncBatchNorm``, which does not train
    on a CPU. PyTorchVideo's ``NaiveSyncBatchNorm`` does, but its running variance is biased: two processes would not
    match one.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in _SYNCHRONISED:
            module.__class__ = _SYNCHRONISED[type(module)]  # the same tensors with another forward
    return model


class _SyncBatchNorm(_BatchNorm):
    """Joins the statistics of all ranks as in Chan et al., "Updating Formulae", with one exchange per forward ::

    rank 0: n0, m0, v0  |  n1, m1, v1 :rank 1      clips x positions, mean and variance of each channel
    n = n0 + n1     m = sum(ni mi) / n     v = sum(ni (vi + (mi - m)^2)) / n
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(x.float(), axes, correction=0)
        count = mean.new_full((1,), x.numel() / x.shape[1])
        rows = torch.stack(differentiable_all_gather(torch.cat([count, mean, var])))  # (ranks, 1 + 2 C)
        counts, means, variances = rows.split([1, len(mean), len(var)], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean).square())).sum(0) / total
        self._update_running(mean.detach(), var.detach() * total / (total - 1))
        scale = torch.rsqrt(var + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = self.weight * scale, self.weight * shift + self.bias
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards ``mean`` and the unbiased ``var``."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)


class _SyncBatchNorm2d(_SyncBatchNorm, nn.BatchNorm2d):
    pass


class _SyncBatchNorm3d(_SyncBatchNorm, nn.BatchNorm3d):
    pass


_SYNCHRONISED: dict[type, type[_SyncBatchNorm]] = {nn.BatchNorm2d: _SyncBatchNorm2d, nn.BatchNorm3d: _SyncBatchNorm3d}
