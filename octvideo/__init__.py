"""octvideo: action recognition in video with 3D Octave Convolution, on PyTorchVideo."""

from typing import TYPE_CHECKING

from octvideo.lazy import lazy_names

if TYPE_CHECKING:
    from octvideo.config import load_cfg as load_cfg
    from octvideo.inference import Predictor as Predictor
    from octvideo.models import build_model as build_model
    from octvideo.models import create_model as create_model
    from octvideo.models import list_models as list_models
    from octvideo.octave import OctaveTensor as OctaveTensor
    from octvideo.octave import OctConv2d as OctConv2d
    from octvideo.octave import OctConv3d as OctConv3d
    from octvideo.octave import octavize as octavize

__version__ = "0.1.0"
__getattr__, __all__ = lazy_names(
    __name__,
    {
        "config": "load_cfg",
        "inference": "Predictor",
        "models": "build_model create_model list_models",
        "octave": "OctConv2d OctConv3d OctaveTensor octavize",
    },
)
