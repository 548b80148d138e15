"""Predict actions in videos, folders, cameras and streams, with PyTorch, OpenVINO or ONNX Runtime."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octvideo.inference.prediction import Prediction
    from octvideo.inference.predictor import Predictor
    from octvideo.inference.weights import default_checkpoint

__all__ = ["Prediction", "Predictor", "default_checkpoint"]

_HOMES = {"Prediction": "prediction", "Predictor": "predictor", "default_checkpoint": "weights"}


def __getattr__(name: str) -> Any:
    # On demand, as torch takes seconds to import: a wrong path on the command line is answered without it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
