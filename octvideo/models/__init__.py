"""Video networks on PyTorchVideo's blocks, each at any alpha."""

from octvideo.models.blocks import Octave
from octvideo.models.build import build_model
from octvideo.models.resnet import create_octave_resnet
from octvideo.models.slowfast import SlowFast, create_octave_slowfast

__all__ = ["Octave", "SlowFast", "build_model", "create_octave_resnet", "create_octave_slowfast"]
