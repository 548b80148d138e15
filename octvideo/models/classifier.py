"""The classifier of a network, and the feature vectors in front of it."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["classifier_features", "find_classifier"]

_LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def find_classifier(model: nn.Module) -> nn.Module:
    """Return the last fully connected layer or convolution of a network: a linear map from features to logits."""
    return [module for module in model.modules() if isinstance(module, _LAYERS)][-1]


def classifier_features(model: nn.Module, clips: Tensor) -> Tensor:
    """Run a network in evaluation mode; return the mean input of its classifier over all places: ``(N, D)``.

    The heads of video networks classify each place of the last map and average the logits. That is the same as to
    classify the mean of the features: ``classifier(features)`` are the logits, up to rounding.
    """
    inputs: list[Tensor] = []
    classifier = find_classifier(model)
    with classifier.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0])):
        model(clips)
    [features] = inputs
    if isinstance(classifier, nn.Linear):  # channels last
        return features.flatten(1, -2).mean(1) if features.dim() > 2 else features
    return features.flatten(2).mean(2)
