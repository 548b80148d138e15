"""SlowFast (Feichtenhofer et al., ICCV 2019) with octave pathways.

::

    clip --+-- every r-th frame --> stem ----> res2 --> res3 --> res4 --> res5 --> pool --+
           |                             ^ merge    ^ merge  ^ merge  ^ merge             +--> concat --> head
           +-- all frames --------> stem |--> res2 -|> res3 -|> res4 -|> res5 --> pool ---+

A lateral appends the Fast pathway's channels to the Slow pathway's. Both are merged to one frequency there, and split
again in the next stage. So each column of a vanilla weight keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pytorchvideo.models.net import MultiPathWayWithFuse, Net
from pytorchvideo.models.slowfast import PoolConcatPathway
from torch import Tensor, fx, nn

from octvideo.models.blocks import HeadPool, Stage, create_head, create_stage, create_stem, plan_stage
from octvideo.models.insertion import Octave, insert_octave
from octvideo.octave import Feature, merge
from octvideo.octave.plan import Plan

__all__ = ["SlowFast", "create_octave_slowfast", "plan_slowfast", "spread"]

_SLOW_KERNELS = (1, 1, 3, 3)
_FAST_KERNELS = (3, 3, 3, 3)


class SlowFast(Net):
    """A two-pathway network that takes one clip and selects the frames of each pathway.

    Args:
        blocks: its modules.
        frame_ratio: frames of the clip per frame of the Slow pathway.
        slow_frames: which frames of 32 at ratio 8: ``"spread"`` 0, 10, 20, 31 (PyTorchVideo, PySlowFast) or ``"every"``
            0, 8, 16, 24 (mmaction2).
    """

    def __init__(self, blocks: nn.ModuleList, frame_ratio: int, slow_frames: str = "spread") -> None:
        super().__init__(blocks=blocks)
        self.frame_ratio, self.slow_frames = frame_ratio, slow_frames

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(N, 3, T, H, W)``, T divisible by the frame ratio, to logits ``(N, classes)``."""
        frames = clips.shape[2]
        if frames % self.frame_ratio:
            raise ValueError(f"SlowFast needs a number of frames divisible by {self.frame_ratio}, got {frames}")
        if self.slow_frames == "every":
            slow = clips[:, :, :: self.frame_ratio]
        else:
            numbers = spread(frames, frames // self.frame_ratio)
            slow = clips.index_select(2, torch.tensor(numbers, device=clips.device))
        return super().forward([slow, clips])  # type: ignore[arg-type]


def spread(frames: int, count: int) -> list[int]:
    """Return ``count`` of ``frames`` frame numbers, from the first to the last: 32 and 4 -> 0, 10, 20, 31.

    In integers, because some runtimes compute ``linspace`` in floats and round down to the frame before.
    """
    return [index * (frames - 1) // max(1, count - 1) for index in range(count)]


@fx.wrap  # one step for torch.fx, which cannot trace the sizes
def _merge_pathways(pathways: list[Feature]) -> tuple[Tensor, Tensor]:
    slow, fast = (merge(x) for x in pathways)
    # A pair without a high group (alpha 1) does not know whether its size was odd.
    height, width = (min(edges) for edges in zip(slow.shape[-2:], fast.shape[-2:]))
    return slow[..., :height, :width], fast[..., :height, :width]


class MergingFusion(nn.Module):
    """PyTorchVideo's ``FuseFastToSlow`` on merged features, with its names (that class cannot be subclassed: its
    ``set_attributes(self, locals())`` also sets ``__class__``).
    """

    def __init__(self, conv_fast_to_slow: nn.Module, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv_fast_to_slow, self.norm, self.activation = conv_fast_to_slow, norm, activation

    def forward(self, pathways: list[Feature]) -> list[Tensor]:
        slow, fast = _merge_pathways(pathways)
        lateral = self.activation(self.norm(self.conv_fast_to_slow(fast)))
        return [torch.cat([slow, lateral], dim=1), fast]


def _fusion(dim_in: int, dim_out: int, kernel: int, frame_ratio: int, norm: bool) -> nn.Module:
    conv = nn.Conv3d(
        dim_in, dim_out, (kernel, 1, 1), stride=(frame_ratio, 1, 1), padding=(kernel // 2, 0, 0), bias=False
    )
    return (
        MergingFusion(conv, nn.BatchNorm3d(dim_out), nn.ReLU())
        if norm
        else MergingFusion(conv, nn.Identity(), nn.Identity())
    )


def create_octave_slowfast(
    octave: Octave,
    *,
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    classes: int = 400,
    dropout: float = 0.5,
    stem_pool_padded: bool = True,
    frame_ratio: int = 4,
    channel_ratio: int = 8,
    fusion_kernel: int = 7,
    fusion_ratio: int = 2,
    lateral_norm: bool = True,
    temporal_blocks: Sequence[int] = (3, 4, 6, 3),
    slow_frames: str = "spread",
    head_windows: Sequence[Sequence[int]] = ((8, 7, 7), (32, 7, 7)),
) -> nn.Module:
    """Build SlowFast with the state dict of ``pytorchvideo.models.hub.slowfast_r50`` at every alpha.

    Args:
        octave: the frequencies; the Fast pathway has ``octave.fast_alpha``.
        blocks: blocks of res2 to res5, in both pathways.
        width: channels of the Slow pathway after the stem.
        classes, dropout: of the head.
        stem_pool_padded: see ``create_stem``.
        frame_ratio: frames of the Fast pathway per frame of the Slow one.
        channel_ratio: channels of the Slow pathway per channel of the Fast one.
        fusion_kernel: temporal kernel of the laterals.
        fusion_ratio: output channels of a lateral per input channel.
        lateral_norm: laterals have a norm and a ReLU after the convolution.
        temporal_blocks: for each stage, the number of blocks with a temporal kernel; later ones have none.
        slow_frames: see ``SlowFast``.
        head_windows: (T, H, W) of each pathway's final map at the training size.
    """
    if width % channel_ratio:
        raise ValueError(f"width {width} must be divisible by channel_ratio {channel_ratio}")

    def fusion(channels: int) -> nn.Module:
        fast = channels // channel_ratio
        return _fusion(fast, fast * fusion_ratio, fusion_kernel, frame_ratio, lateral_norm)

    def kernels(of_stages: Sequence[int], index: int) -> list[int]:
        return [of_stages[index] if block < temporal_blocks[index] else 1 for block in range(blocks[index])]

    stems = [
        create_stem(width, (1, 7, 7), stem_pool_padded),
        create_stem(width // channel_ratio, (5, 7, 7), stem_pool_padded),
    ]
    modules: list[nn.Module] = [_pathways(stems, fusion(width))]
    dim_in, dim_out = width, 4 * width
    for index, depth in enumerate(blocks):
        stage, last = index + 2, index == len(blocks) - 1
        pathways: list[nn.Module] = [
            create_stage(
                stage,
                depth,
                dim_in + dim_in * fusion_ratio // channel_ratio,
                dim_out // 4,
                dim_out,
                kernels(_SLOW_KERNELS, index),
            ),
            create_stage(
                stage,
                depth,
                dim_in // channel_ratio,
                dim_out // 4 // channel_ratio,
                dim_out // channel_ratio,
                kernels(_FAST_KERNELS, index),
            ),
        ]
        modules.append(_pathways(pathways, None if last else fusion(dim_out)))
        dim_in, dim_out = dim_out, 2 * dim_out
    modules.append(PoolConcatPathway(pool=nn.ModuleList([HeadPool(window) for window in head_windows])))
    modules.append(create_head(dim_in + dim_in // channel_ratio, classes, dropout, window=None))
    network = SlowFast(nn.ModuleList(modules), frame_ratio, slow_frames)
    insert_octave(network, octave, plan_slowfast)
    return network


def plan_slowfast(network: nn.Module, octave: Octave) -> Plan:
    """Return which layers of SlowFast become octave; every stage starts from merged features."""
    plan, fast_octave = octave.new_plan(), replace(octave, alpha=octave.fast_alpha)
    for name, stage in network.named_modules():
        if isinstance(stage, Stage):
            plan_stage(plan, name, stage, octave if name.endswith(".0") else fast_octave, alpha_in=0.0)
    return plan


def _pathways(blocks: list[nn.Module], fusion: nn.Module | None) -> nn.Module:
    # inplace=False: the input list is not changed.
    return MultiPathWayWithFuse(multipathway_blocks=nn.ModuleList(blocks), multipathway_fusion=fusion, inplace=False)
