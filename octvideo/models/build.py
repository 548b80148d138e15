"""Build the network of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from octvideo.architectures import HUB_NETWORKS, IMAGE_NETWORKS, VIDEO_RESNETS
from octvideo.config.defaults import get_defaults
from octvideo.errors import UserError
from octvideo.models.hub import create_hub_network
from octvideo.models.image.layers import for_clips
from octvideo.models.image.networks import create_image_network
from octvideo.models.insertion import Octave
from octvideo.models.resnet import create_octave_resnet
from octvideo.models.slowfast import create_octave_slowfast
from octvideo.octave import run_as_2d
from octvideo.octave.ablations import Ablation

__all__ = ["build_model", "channels_last", "num_classes"]

_DEFAULT_CLASSES = 400  # of Kinetics; for a network that is built without data or weights, to count or to time


def build_model(cfg: CfgNode) -> nn.Module:
    """Return a new network: clips ``(N, 3, T, H, W)`` to logits ``(N, classes)``.

    Raises:
        UserError: keys that do not fit together; the message names them.
    """
    try:
        network = _build(cfg)
        return run_as_2d(network) if cfg.MODEL.CONV_AS_2D else network
    except ValueError as error:  # a layer cannot be octave with these channels
        raise UserError(
            f"MODEL.ARCH {cfg.MODEL.ARCH} cannot be made with OCTAVE.ALPHA {cfg.OCTAVE.ALPHA:g}, OCTAVE.MULTIPLE "
            f"{cfg.OCTAVE.MULTIPLE}: {error}"
        ) from error


def num_classes(cfg: CfgNode) -> int:
    """Return the number of classes: MODEL.NUM_CLASSES, or 400 if it is 0."""
    return cfg.MODEL.NUM_CLASSES or _DEFAULT_CLASSES


def _build(cfg: CfgNode) -> nn.Module:
    if cfg.MODEL.ARCH in IMAGE_NETWORKS:
        return _image_network(cfg)
    if cfg.MODEL.ARCH in HUB_NETWORKS:
        return _hub_network(cfg)
    return _slowfast(cfg) if cfg.MODEL.ARCH == "slowfast" else _video_resnet(cfg)


def _video_resnet(cfg: CfgNode) -> nn.Module:
    model, architecture = cfg.MODEL, VIDEO_RESNETS[cfg.MODEL.ARCH]
    pool = architecture.temporal_pool and model.TEMPORAL_POOL
    frames = -(-cfg.DATA.NUM_FRAMES // model.STEM_TEMPORAL_STRIDE)
    if pool and frames < 2:
        raise UserError(
            f"DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}: {model.ARCH} needs at least 2, or MODEL.TEMPORAL_POOL False"
        )
    edge = _final_edge(cfg)
    return create_octave_resnet(
        _octave(cfg),
        stem_kernel=model.STEM_KERNEL or architecture.stem_kernel,
        stem_temporal_stride=model.STEM_TEMPORAL_STRIDE,
        temporal_kernels=model.TEMPORAL_KERNELS or architecture.temporal_kernels,
        temporal_pool=pool,
        nonlocal_after=model.NONLOCAL,
        head_window=(frames // 2 if pool else frames, edge, edge),
        **_common(cfg),
    )


def _slowfast(cfg: CfgNode) -> nn.Module:
    model, slowfast, frames = cfg.MODEL, cfg.MODEL.SLOWFAST, cfg.DATA.NUM_FRAMES
    if frames % slowfast.FRAME_RATIO:
        raise UserError(
            f"DATA.NUM_FRAMES is {frames}: it must be divisible by MODEL.SLOWFAST.FRAME_RATIO ({slowfast.FRAME_RATIO})"
        )
    if model.WIDTH % slowfast.CHANNEL_RATIO:
        raise UserError(
            f"MODEL.WIDTH is {model.WIDTH}: it must be divisible by MODEL.SLOWFAST.CHANNEL_RATIO "
            f"({slowfast.CHANNEL_RATIO})"
        )
    _check_unused(cfg, "MODEL", ("STEM_KERNEL", "TEMPORAL_KERNELS", "STEM_TEMPORAL_STRIDE", "NONLOCAL"))
    edge = _final_edge(cfg)
    return create_octave_slowfast(
        _octave(cfg),
        frame_ratio=slowfast.FRAME_RATIO,
        channel_ratio=slowfast.CHANNEL_RATIO,
        fusion_kernel=slowfast.FUSION_KERNEL,
        fusion_ratio=slowfast.FUSION_RATIO,
        lateral_norm=slowfast.LATERAL_NORM,
        temporal_blocks=slowfast.TEMPORAL_BLOCKS or model.BLOCKS,
        slow_frames=slowfast.SLOW_FRAMES,
        head_windows=((frames // slowfast.FRAME_RATIO, edge, edge), (frames, edge, edge)),
        **_common(cfg),
    )


def _image_network(cfg: CfgNode) -> nn.Module:
    """Build an image network for clips of one frame ``(N, 3, 1, H, W)`` and for images ``(N, 3, H, W)``.

    MODEL.BLOCKS and MODEL.WIDTH replace those of a ResNet if they are not the defaults.
    """
    model, defaults = cfg.MODEL, get_defaults().MODEL
    if cfg.DATA.NUM_FRAMES != 1:
        raise UserError(f"DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}: {model.ARCH} is an image network and takes 1")
    _check_unused(cfg, "MODEL", ("STEM_KERNEL", "STEM_POOL_PADDED", "TEMPORAL_KERNELS", "NONLOCAL"))
    sizes = {}
    if IMAGE_NETWORKS[model.ARCH].family == "resnet":
        sizes = {key.lower(): model[key] for key in ("BLOCKS", "WIDTH") if model[key] != defaults[key]}
    else:
        _check_unused(cfg, "MODEL", ("BLOCKS", "WIDTH"))
    return for_clips(
        create_image_network(model.ARCH, _octave(cfg), classes=num_classes(cfg), dropout=model.DROPOUT, **sizes)
    )


def _hub_network(cfg: CfgNode) -> nn.Module:
    model, network = cfg.MODEL, HUB_NETWORKS[cfg.MODEL.ARCH]
    unused = "BLOCKS STEM_KERNEL STEM_TEMPORAL_STRIDE STEM_POOL_PADDED TEMPORAL_POOL TEMPORAL_KERNELS NONLOCAL"
    _check_unused(cfg, "MODEL", (*unused.split(), *(("WIDTH",) if network.family == "x3d" else ())))
    # octavize decides where: from the stem to the last map
    _check_unused(cfg, "OCTAVE", sorted(set(cfg.OCTAVE) - {"ALPHA", "MULTIPLE"}))
    _check_unused(cfg, "TRAIN", ("RECOMPUTE",))
    edge = _final_edge(cfg)
    return create_hub_network(
        model.ARCH,
        alpha=cfg.OCTAVE.ALPHA,
        multiple=cfg.OCTAVE.MULTIPLE,
        width=model.WIDTH,
        classes=num_classes(cfg),
        dropout=model.DROPOUT,
        head_window=(max(1, cfg.DATA.NUM_FRAMES // network.temporal_stride), edge, edge),
    )


def _check_unused(cfg: CfgNode, group: str, keys: Sequence[str]) -> None:
    """Refuse keys that are set although the network does not use them."""
    values, defaults = cfg[group], get_defaults()[group]
    for key in keys:
        if values[key] != defaults[key]:
            raise UserError(f"{group}.{key} is set, but {cfg.MODEL.ARCH} does not use it: leave it {defaults[key]}")


def _common(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments that all video networks take."""
    model = cfg.MODEL
    return dict(
        blocks=model.BLOCKS,
        width=model.WIDTH,
        classes=num_classes(cfg),
        dropout=model.DROPOUT,
        stem_pool_padded=model.STEM_POOL_PADDED,
    )


def _final_edge(cfg: CfgNode) -> int:
    """Return the height and width of the last map at the training size."""
    return -(-cfg.DATA.TRAIN_CROP // 32)


def channels_last(model: nn.Module) -> nn.Module:
    """Return the network with channels-last weights, as the clips have them; MODEL.CONV_AS_2D is fast with these."""
    is_3d = any(parameter.dim() == 5 for parameter in model.parameters())
    return model.to(memory_format=torch.channels_last_3d if is_3d else torch.channels_last)


def _octave(cfg: CfgNode) -> Octave:
    return Octave(
        alpha=cfg.OCTAVE.ALPHA,
        stages=tuple(cfg.OCTAVE.STAGES),
        multiple=cfg.OCTAVE.MULTIPLE,
        ablation=Ablation(
            down=cfg.OCTAVE.DOWNSAMPLE,
            high_to_low=cfg.OCTAVE.HIGH_TO_LOW,
            low_to_high=cfg.OCTAVE.LOW_TO_HIGH,
            pool_strided_low_to_high=cfg.OCTAVE.POOL_STRIDED_LOW_TO_HIGH,
            upsample_first=cfg.OCTAVE.UPSAMPLE_FIRST,
        ),
        pool_vanilla=cfg.OCTAVE.POOL_VANILLA,
        pool_leaving=cfg.OCTAVE.POOL_LEAVING,
        fast_alpha=cfg.OCTAVE.FAST_ALPHA,
    )
