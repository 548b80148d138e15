"""Averages over many steps: of the weights, and of batch norm's statistics."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["precise_batch_norm", "weight_average"]


def weight_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of parameters and buffers that starts with those of ``model``.

    After each step: average = decay * average + (1 - decay) * value.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True).eval()


def precise_batch_norm(model: nn.Module, clips: Iterator[Tensor], batches: int) -> None:
    """Set the running statistics to those of many batches (Wu and Johnson, "Rethinking Batch", Sec. 3).

    Args:
        model: only its running statistics change; it is left in evaluation mode.
        clips: inputs of the network, augmented as in training.
        batches: number of batches to take.
    """
    model.eval()
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.train()
    layers = get_bn_modules(model)
    # fvcore puts new tensors in the place of the buffers; DistributedDataParallel keeps the old ones.
    before = [(layer.running_mean, layer.running_var, layer.num_batches_tracked.clone()) for layer in layers]
    update_bn_stats(model, clips, batches)
    with torch.no_grad():
        for layer, (mean, var, count) in zip(layers, before):
            layer.running_mean, layer.running_var = mean.copy_(layer.running_mean), var.copy_(layer.running_var)
            layer.num_batches_tracked.copy_(count)  # counts the steps of training
    model.eval()
