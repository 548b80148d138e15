"""PyTorchVideo's residual blocks, and which of their layers become octave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.resnet import ResStage, create_bottleneck_block, create_res_block
from pytorchvideo.models.stem import create_res_basic_stem
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from octvideo.models.insertion import Octave
from octvideo.models.nonlocal_block import NonLocal
from octvideo.octave import Feature, OctaveTensor, add, map_groups, merge
from octvideo.octave.functional import exporting
from octvideo.octave.plan import ConvPlan, Plan

__all__ = ["Stage", "TemporalPool", "create_head", "create_stage", "create_stem", "plan_stage"]


class FramePool(nn.Module):
    """3x3 max pooling with stride 2 of every frame: ``nn.MaxPool3d((1, 3, 3), (1, 2, 2))``, run in 2D.

    The values are bit-identical. In channels-last memory 2D pooling is several times faster on a CPU.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        if exporting():
            return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, self.padding, self.padding))
        n, _, t = x.shape[:3]
        y = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), 3, stride=2, padding=self.padding)
        return y.unflatten(0, (n, t)).transpose(1, 2)


class TemporalPool(nn.Module):
    """Max pooling of pairs of frames: ``nn.MaxPool3d((2, 1, 1))``; a single frame is not changed.

    Without a gradient it is run as ``torch.maximum``: bit-identical and several times faster on a CPU. The gradients
    would differ where two frames are equal, as zeros after a ReLU are: pooling gives the gradient to the first.
    """

    def forward(self, x: Feature) -> Feature:
        return map_groups(_pool_time, x)


def _pool_time(x: Tensor) -> Tensor:
    if x.shape[2] == 1:
        return x
    if torch.is_grad_enabled() or exporting():
        return F.max_pool3d(x, (2, 1, 1))
    frames = x.shape[2] // 2 * 2
    return torch.maximum(x[:, :, :frames:2], x[:, :, 1:frames:2])


def add_branch(shortcut: Feature, branch: Feature) -> Feature:
    """Return the sum of a block.

    Where the inner layers have no high group (``multiple`` can take all of few channels), the branch does not know
    whether its size was odd, and its high map may have one row and one column more: copies, which are left out.
    """
    if isinstance(shortcut, OctaveTensor) and isinstance(branch, OctaveTensor):
        high, more = shortcut.high, branch.high
        if high is not None and more is not None and more.shape != high.shape:
            branch = OctaveTensor(more[..., : high.shape[-2], : high.shape[-1]], branch.low)
    return add(shortcut, branch)


def create_stem(width: int, kernel: Sequence[int], pool_padded: bool, temporal_stride: int = 1) -> nn.Module:
    """Build the stem: convolution of stride (temporal_stride, 2, 2), norm, ReLU, 3x3 max pool of stride 2.

    Args:
        width: output channels.
        kernel: (T, H, W), odd.
        pool_padded: False: no padding (224 -> 55), as in the baselines of Table 6.
        temporal_stride: stride of the convolution over time.
    """
    return create_res_basic_stem(
        in_channels=3,
        out_channels=width,
        conv_kernel_size=tuple(kernel),
        conv_stride=(temporal_stride, 2, 2),
        conv_padding=tuple(size // 2 for size in kernel),
        pool=lambda kernel_size, stride, padding: FramePool(int(pool_padded)),
    )


class Stage(ResStage):
    """PyTorchVideo's ``ResStage``; its blocks can be recomputed in the backward pass instead of stored.

    Attributes:
        number: 2 to 5.
        recompute: keep only the blocks' inputs in training: less memory, about a third more time, the same results.
    """

    def __init__(self, number: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__(nn.ModuleList(blocks))
        self.number = number
        self.recompute = False

    def forward(self, x: Feature) -> Feature:  # type: ignore[override]
        for block in self.res_blocks:
            if not (self.recompute and self.training and torch.is_grad_enabled()):
                x = block(x)
            elif torch.compiler.is_compiling():  # the compiled backward pass does not touch the statistics
                x = _join(checkpoint(_on_groups, block, *_groups(x), use_reentrant=False))
            else:
                contexts = partial(_contexts, block)
                x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        return x


def _on_groups(block: nn.Module, *groups: Tensor | None) -> tuple[Tensor | None, ...]:
    """Run a block on the groups of a pair: in a compiled network only tensors can enter and leave a checkpoint."""
    return _groups(block(_join(groups)))


def _groups(x: Feature) -> tuple[Tensor | None, ...]:
    return (x.high, x.low) if isinstance(x, OctaveTensor) else (x,)


def _join(groups: tuple[Tensor | None, ...]) -> Feature:
    if len(groups) == 2:
        return OctaveTensor(*groups)
    (x,) = groups
    assert x is not None
    return x


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of both passes: batch norms update their statistics in the first pass only."""
    return nullcontext(), _without_statistics(block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    # Not with track_running_stats: a norm must save the same tensors for its gradient in both passes.
    norms = [layer for layer in block.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count


def create_stage(
    stage: int,
    depth: int,
    dim_in: int,
    dim_inner: int,
    dim_out: int,
    temporal_kernels: Sequence[int],
    *,
    nonlocal_after: Sequence[int] = (),
) -> Stage:
    """Build a residual stage of bottleneck blocks ``(t, 1, 1), (1, 3, 3), (1, 1, 1)``.

    Args:
        stage: 2 to 5; from 3 on the first block halves height and width (on its 3x3).
        depth: number of blocks.
        dim_in, dim_inner, dim_out: channels.
        temporal_kernels: temporal kernel of each block's first convolution, repeated over the blocks.
        nonlocal_after: indices of the blocks that a non-local block follows.
    """
    blocks: list[nn.Module] = []
    for index in range(depth):
        first = index == 0
        kernel = temporal_kernels[index % len(temporal_kernels)]
        blocks.append(
            create_res_block(
                dim_in=dim_in if first else dim_out,
                dim_inner=dim_inner,
                dim_out=dim_out,
                bottleneck=create_bottleneck_block,
                use_shortcut=first,
                branch_fusion=add_branch,
                conv_a_kernel_size=(kernel, 1, 1),
                conv_a_stride=(1, 1, 1),
                conv_a_padding=(kernel // 2, 0, 0),
                conv_b_kernel_size=(1, 3, 3),
                conv_b_stride=(1, 2, 2) if first and stage > 2 else (1, 1, 1),
                conv_b_padding=(0, 1, 1),
                activation_bottleneck=partial(nn.ReLU, inplace=True),
                activation_block=partial(nn.ReLU, inplace=True),
            )
        )
        if index in nonlocal_after:
            blocks.append(NonLocal(dim_out, dim_out // 2))
    return Stage(stage, blocks)


def plan_stage(plan: Plan, name: str, stage: Stage, octave: Octave, alpha_in: float) -> None:
    """Enter a stage into a plan.

    Args:
        plan: is extended.
        name: of the stage in its network.
        stage: is at the end of :func:`create_stage`.
        octave: the frequencies; the output has ``octave.at(stage.number)``.
        alpha_in: alpha of the input.
    """
    alpha = octave.at(stage.number)
    for number, block in stage.res_blocks.named_children():
        place = f"{name}.res_blocks.{number}"
        if isinstance(block, NonLocal):
            # Attention needs one map: theta, phi and g return tensors, the output convolution takes one.
            octave.add_layers(
                plan,
                place,
                block,
                alpha=alpha,
                alpha_in=0.0,
                reading=("conv_out",),
                writing_tensors=("conv_theta", "conv_phi", "conv_g"),
            )
            continue
        # The frequencies can change only where the shortcut is a convolution.
        before = alpha_in if number == "0" else alpha
        octave.add_layers(plan, place, block, alpha=alpha, alpha_in=before, reading=("branch1_conv", "branch2.conv_a"))
        if octave.pool_leaving and before > 0 and alpha == 0:
            plan.convs[f"{place}.branch2.conv_b"] = ConvPlan(0.0, 0.0)


class HeadPool(nn.Module):
    """Average pooling with stride 1 and PyTorchVideo's fixed window, or the whole map if it is smaller.

    At the training size it is global pooling; a larger test map gives several outputs, which the head averages.
    Two frequencies are merged first.
    """

    def __init__(self, window: Sequence[int]) -> None:
        super().__init__()
        self.window = tuple(window)

    def forward(self, x: Feature) -> Tensor:
        x = merge(x)
        return F.avg_pool3d(x, [min(size, edge) for size, edge in zip(self.window, x.shape[-3:])], stride=1)


def create_head(channels: int, classes: int, dropout: float, window: Sequence[int] | None) -> nn.Module:
    """Build pooling, dropout, classifier and averaging: ``(N, channels, T, H, W)`` to logits ``(N, classes)``.

    ``window`` is that of ``HeadPool``; None if the features are pooled already.
    """
    head = create_res_basic_head(in_features=channels, out_features=classes, pool=None, dropout_rate=dropout)
    if window is not None:
        head.pool = HeadPool(window)
    return head
