"""Give a trained network the class ``other``: one more row of its classifier, fitted on its features.

The rest of the network stays as it is, so it ranks its classes as before ::

    features (N, D) -> known rows (K, D), fixed     -> logits (N, K)
                    -> row of `other` (1, D), fitted -> logit  (N, 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from octvideo.errors import UserError
from octvideo.inference.confidence import OTHER
from octvideo.inference.predictor import Predictor
from octvideo.models.checkpoints import read_checkpoint
from octvideo.progress import Progress

__all__ = ["add_other", "fit_row"]

_DECAY = 1e-3  # of the row, on features of unit variance


def add_other(checkpoint: Path, known: Sequence[Path], other: Sequence[Path]) -> dict[str, Any]:
    """Return the content of a checkpoint whose network has the class ``other`` too.

    Args:
        checkpoint: of a network without it, trained by octvideo.
        known: videos of its classes.
        other: videos that show none of them.

    Raises:
        UserError: a video cannot be read, or the network does not end in one linear layer ``proj``.
    """
    content = read_checkpoint(checkpoint)
    state = dict(content["model"])
    names = [name.removesuffix(".weight") for name in state if name.endswith("proj.weight")]
    if len(names) != 1:
        raise UserError(f"{checkpoint}: this network does not end in one linear layer; the class `other` needs that")
    weight, bias = (state[f"{names[0]}.{kind}"].float() for kind in ("weight", "bias"))
    predictor = Predictor(checkpoint, device="cpu")
    vectors = []
    with Progress("features", len(known) + len(other), "clips") as progress:
        for path in (*known, *other):
            vectors.append(torch.from_numpy(predictor.features(path, per_window=True, every=predictor.span).vectors))
            progress.update()
    row, offset = fit_row(weight, bias, torch.cat(vectors[: len(known)]), torch.cat(vectors[len(known) :]))
    state[f"{names[0]}.weight"] = torch.cat([weight, row[None]])
    state[f"{names[0]}.bias"] = torch.cat([bias, offset[None]])
    cfg = CfgNode.load_cfg(content["config"])
    cfg.MODEL.NUM_CLASSES = len(bias) + 1
    return {**content, "model": state, "config": cfg.dump(), "classes": [*content["classes"], OTHER]}


def fit_row(weight: Tensor, bias: Tensor, known: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Fit the row of one more class by logistic regression against all classes together; both sides weigh the same.

    Args:
        weight, bias: of the classes, ``(K, D)`` and ``(K,)``.
        known, other: features ``(N, D)`` of clips of the classes, and ``(M, D)`` of clips of none.

    Returns:
        Weights ``(D,)`` and bias ``()``.
    """
    features = torch.cat([known, other])
    target = torch.cat([torch.zeros(len(known)), torch.ones(len(other))])
    share = torch.where(target > 0, 0.5 / len(other), 0.5 / len(known))
    rest = (features @ weight.T + bias).logsumexp(1)
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    scaled = (features - mean) / deviation
    row = torch.zeros(features.shape[1], requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([row, offset], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = scaled @ row + offset - rest
        value = (share * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).sum()
        value = value + _DECAY * row.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    row = (row / deviation).detach()
    return row, (offset - row @ mean).detach()
