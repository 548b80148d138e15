"""Octave convolution and its algebra, on torch alone."""

from octvideo.octave.conv import OctConv2d, OctConv3d
from octvideo.octave.fuse import fold_batch_norm
from octvideo.octave.layers import OctMap, OctPool, OctReLU, OctSqueezeExcitation, merge, pool_globally, split
from octvideo.octave.norm import OctBatchNorm2d, OctBatchNorm3d
from octvideo.octave.octavize import describe, octavize
from octvideo.octave.pair import Feature, OctaveTensor, add, map_groups, split_channels

__all__ = [
    "Feature",
    "OctBatchNorm2d",
    "OctBatchNorm3d",
    "OctConv2d",
    "OctConv3d",
    "OctMap",
    "OctPool",
    "OctReLU",
    "OctSqueezeExcitation",
    "OctaveTensor",
    "add",
    "describe",
    "fold_batch_norm",
    "map_groups",
    "merge",
    "octavize",
    "pool_globally",
    "split",
    "split_channels",
]
