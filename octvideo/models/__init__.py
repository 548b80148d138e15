"""Video networks on PyTorchVideo's blocks, each at any alpha, and networks by name."""

import warnings
from typing import TYPE_CHECKING

from octvideo.lazy import lazy_names

if TYPE_CHECKING:
    from octvideo.models.blocks import Stage as Stage
    from octvideo.models.build import build_model as build_model
    from octvideo.models.insertion import Octave as Octave
    from octvideo.models.resnet import create_octave_resnet as create_octave_resnet
    from octvideo.models.slowfast import SlowFast as SlowFast
    from octvideo.models.slowfast import create_octave_slowfast as create_octave_slowfast
    from octvideo.models.zoo import create_model as create_model
    from octvideo.models.zoo import list_models as list_models

# PyTorchVideo scripts a few functions on import.
warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "blocks": "Stage",
        "build": "build_model",
        "insertion": "Octave",
        "resnet": "create_octave_resnet",
        "slowfast": "SlowFast create_octave_slowfast",
        "zoo": "create_model list_models",
    },
)
