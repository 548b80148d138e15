"""Video networks on PyTorchVideo's blocks, each at any alpha."""

import warnings

# PyTorchVideo scripts a few functions on import.
warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)

from octvideo.models.blocks import Octave, Stage  # noqa: E402
from octvideo.models.build import build_model  # noqa: E402
from octvideo.models.resnet import create_octave_resnet  # noqa: E402
from octvideo.models.slowfast import SlowFast, create_octave_slowfast  # noqa: E402

__all__ = ["Octave", "SlowFast", "Stage", "build_model", "create_octave_resnet", "create_octave_slowfast"]
