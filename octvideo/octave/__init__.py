"""Octave convolution and its algebra, on torch alone."""

from octvideo.octave.ablations import AblatedOctConv2d, AblatedOctConv3d, Ablation
from octvideo.octave.conv import OctConv2d, OctConv3d, run_as_2d
from octvideo.octave.fuse import fold_batch_norm
from octvideo.octave.layers import OctMap, OctSqueezeExcitation, merge, pool_globally, split
from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.octave.octavize import describe, octavize
from octvideo.octave.pair import Feature, OctaveTensor, add, map_groups, split_channels
from octvideo.octave.plan import Plan

__all__ = [
    "AblatedOctConv2d",
    "AblatedOctConv3d",
    "Ablation",
    "Feature",
    "OctBatchNorm2d",
    "OctBatchNorm3d",
    "OctConv2d",
    "OctConv3d",
    "OctMap",
    "OctSqueezeExcitation",
    "OctaveTensor",
    "Plan",
    "add",
    "describe",
    "fold_batch_norm",
    "map_groups",
    "merge",
    "octavize",
    "pool_globally",
    "run_as_2d",
    "split",
    "split_channels",
]
