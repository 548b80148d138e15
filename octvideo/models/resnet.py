"""C2D, I3D and Slow: video ResNets with one pathway, each at any alpha."""

from __future__ import annotations

from collections.abc import Sequence

from pytorchvideo.models.net import Net
from torch import nn

from octvideo.models.blocks import Stage, TemporalPool, create_head, create_stage, create_stem, plan_stage
from octvideo.models.insertion import Octave, insert_octave
from octvideo.octave.plan import Plan

__all__ = ["create_octave_resnet", "plan_resnet"]


def create_octave_resnet(
    octave: Octave,
    *,
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    classes: int = 400,
    dropout: float = 0.5,
    stem_kernel: Sequence[int] = (5, 7, 7),
    stem_pool_padded: bool = True,
    stem_temporal_stride: int = 1,
    temporal_kernels: Sequence[Sequence[int]] = ((3,), (3, 1), (3, 1), (1, 3)),
    temporal_pool: bool = True,
    nonlocal_after: Sequence[Sequence[int]] = ((), (), (), ()),
    head_window: Sequence[int] = (4, 7, 7),
) -> nn.Module:
    """Build a video ResNet: clips ``(N, 3, T, H, W)`` to logits ``(N, classes)``.

    The state dict has the keys and shapes of ``pytorchvideo.models.hub``'s c2d_r50, i3d_r50, slow_r50 at every alpha.

    Args:
        octave: the frequencies and where they are.
        blocks: blocks of res2 to res5.
        width: channels after the stem.
        classes, dropout: of the head.
        stem_kernel, stem_pool_padded, stem_temporal_stride: see ``create_stem``.
        temporal_kernels: for each stage, see ``create_stage``.
        temporal_pool: max pool of (2, 1, 1) after res2.
        nonlocal_after: for each stage, indices of the blocks that a non-local block follows.
        head_window: (T, H, W) of the final map at the training size.
    """
    modules: list[nn.Module] = [create_stem(width, stem_kernel, stem_pool_padded, stem_temporal_stride)]
    dim_in, dim_out = width, 4 * width
    for index, depth in enumerate(blocks):
        modules.append(
            create_stage(
                index + 2,
                depth,
                dim_in,
                dim_out // 4,
                dim_out,
                temporal_kernels[index],
                nonlocal_after=nonlocal_after[index],
            )
        )
        if index == 0 and temporal_pool:
            modules.append(TemporalPool())
        dim_in, dim_out = dim_out, 2 * dim_out
    modules.append(create_head(dim_in, classes, dropout, head_window))
    network = Net(blocks=nn.ModuleList(modules))
    insert_octave(network, octave, plan_resnet)
    return network


def plan_resnet(network: nn.Module, octave: Octave) -> Plan:
    """Return which layers of a video ResNet become octave."""
    plan, alpha_in = octave.new_plan(), 0.0
    for name, stage in network.named_modules():
        if isinstance(stage, Stage):
            plan_stage(plan, name, stage, octave, alpha_in)
            alpha_in = octave.at(stage.number)
    return plan
