"""Predict actions in videos, folders, cameras and streams, with PyTorch, OpenVINO or ONNX Runtime."""

from typing import TYPE_CHECKING

from octvideo.lazy import lazy_names

if TYPE_CHECKING:
    from octvideo.inference.prediction import Prediction as Prediction
    from octvideo.inference.predictor import Predictor as Predictor
    from octvideo.inference.weights import default_checkpoint as default_checkpoint

__getattr__, __all__ = lazy_names(
    __name__, {"prediction": "Prediction", "predictor": "Predictor", "weights": "default_checkpoint"}
)
