"""octvideo: action recognition in video with 3D Octave Convolution, on PyTorchVideo."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octvideo.config import load_cfg
    from octvideo.inference import Predictor
    from octvideo.models import build_model
    from octvideo.octave import OctaveTensor, OctConv2d, OctConv3d, octavize

__version__ = "0.1.0"
__all__ = ["OctConv2d", "OctConv3d", "OctaveTensor", "Predictor", "build_model", "load_cfg", "octavize"]

_HOMES = {
    "OctConv2d": "octave",
    "OctConv3d": "octave",
    "OctaveTensor": "octave",
    "Predictor": "inference",
    "build_model": "models",
    "load_cfg": "config",
    "octavize": "octave",
}


def __getattr__(name: str) -> Any:
    # On demand: torch takes seconds to import.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"octvideo.{_HOMES[name]}"), name)
