"""Predict actions in videos, folders, cameras and streams."""

from typing import TYPE_CHECKING

from octvideo.lazy import lazy_names

if TYPE_CHECKING:
    from octvideo.inference.prediction import Prediction as Prediction
    from octvideo.inference.predictor import Predictor as Predictor

__getattr__, __all__ = lazy_names(__name__, {"prediction": "Prediction", "predictor": "Predictor"})
