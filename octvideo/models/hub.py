"""X3D, CSN and R(2+1)D: PyTorchVideo's own networks, and their octave twins by ``octavize``.

- X3D: Feichtenhofer, CVPR 2020, https://arxiv.org/abs/2004.04730
- CSN: Tran et al., ICCV 2019, https://arxiv.org/abs/1904.02811
- R(2+1)D: Tran et al., CVPR 2018, https://arxiv.org/abs/1711.11248
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.x3d import create_x3d
from torch import Tensor, nn

from octvideo.architectures import HUB_NETWORKS
from octvideo.models.blocks import HeadPool
from octvideo.models.insertion import Octave, insert_octave
from octvideo.octave import octavize
from octvideo.octave.plan import Plan

__all__ = ["create_hub_network", "plan_hub_network"]


class Swish(nn.Module):
    """PyTorchVideo's ``Swish`` bit for bit, without its own autograd function, which exporters do not know."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def create_hub_network(
    name: str,
    *,
    alpha: float = 0.0,
    multiple: int = 1,
    width: int = 64,
    classes: int = 400,
    dropout: float = 0.5,
    head_window: Sequence[int] = (16, 7, 7),
) -> nn.Module:
    """Build a network of ``HUB_NETWORKS``: clips ``(N, 3, T, H, W)`` to logits ``(N, classes)``.

    The state dict has the keys and shapes of the network of that name in ``pytorchvideo.models.hub`` at every alpha.
    That one returns the softmax of these logits (X3D and R(2+1)D).

    Args:
        name: a key of ``HUB_NETWORKS``.
        alpha, multiple: of ``octavize``.
        width: channels after the stem; X3D has its own.
        classes, dropout: of the head.
        head_window: (T, H, W) of the final map at the training size, see ``HeadPool``.
    """
    family, arguments, _ = HUB_NETWORKS[name]
    common: dict[str, Any] = dict(model_num_class=classes, dropout_rate=dropout, head_activation=None, **arguments)
    if family == "x3d":
        model, pool = create_x3d(inner_act=Swish, **common), "blocks.5.pool.pool"
    elif family == "csn":
        model, pool = create_csn(stem_dim_out=width, stem_pool=nn.MaxPool3d, **common), "blocks.5.pool"
    else:
        model, pool = create_r2plus1d(stem_dim_out=width, **common), "blocks.5.pool"
    model.set_submodule(pool, HeadPool(head_window))
    insert_octave(model, Octave(alpha, multiple=multiple), partial(plan_hub_network, pool=pool))
    return model


def plan_hub_network(network: nn.Module, octave: Octave, pool: str) -> Plan:
    """Return which layers become octave: what ``octavize`` finds from the stem to the last map."""
    if octave.alpha == 0:
        return octave.new_plan()
    planned = copy.deepcopy(network)
    del planned.octave_rule
    # What becomes octave must not depend on the size of the clips.
    planned.set_submodule(pool, nn.AdaptiveAvgPool3d(1))
    plan: Plan = octavize(planned, octave.alpha, multiple=octave.multiple).octave_plan  # type: ignore[assignment]
    return plan
