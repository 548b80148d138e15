"""Batch norm over the batch of all processes."""

from __future__ import annotations

import torch
from fvcore.nn.distributed import differentiable_all_gather
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["synchronise_batch_norm"]


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch statistics over all ranks, also those of a pair's two groups; the state dict stays.

    A process group must have been joined. On CUDA it is ``nn.SyncBatchNorm``, which does not train on a CPU.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in _KINDS:
            module.__class__ = _KINDS[type(module)]  # the same tensors, only another forward
    return model


class _OverRanks(_BatchNorm):
    """Statistics of parts joined as in Chan et al., "Updating Formulae", with one exchange a forward ::

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
        self._note(mean.detach(), var.detach() * total / (total - 1))
        scale = torch.rsqrt(var + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = self.weight * scale, self.weight * shift + self.bias
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running statistics; ``var`` is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)


class _BatchNorm2d(_OverRanks, nn.BatchNorm2d):
    pass


class _BatchNorm3d(_OverRanks, nn.BatchNorm3d):
    pass


_KINDS: dict[type, type[_OverRanks]] = {nn.BatchNorm2d: _BatchNorm2d, nn.BatchNorm3d: _BatchNorm3d}
