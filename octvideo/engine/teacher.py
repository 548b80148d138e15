"""Distillation: a teacher network's answers on the student's clips are targets (Hinton et al., 2015).

Teacher and student see the same augmented, and mixed, clip (Beyer et al., 2022, "consistent teaching"). With logits z
of the student and v of the teacher, temperature T and weight w, the loss of a clip is::

    (1 - w) * cross entropy(z, label) + w * T^2 * KL(softmax(v / T) || softmax(z / T))

Clips without labels are trained on with w = 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from octvideo.data import VideoIndex
from octvideo.data.classes import did_you_mean, is_number, is_numbered, match
from octvideo.engine.networks import Network, load_network
from octvideo.errors import UserError, one_line
from octvideo.models.build import channels_last
from octvideo.models.checkpoints import local_file
from octvideo.models.zoo import list_models, weights_file
from octvideo.octave import fold_batch_norm

__all__ = ["Teacher", "TeacherFile", "build_teacher", "read_teacher"]


class TeacherFile(NamedTuple):
    """The network of TRAIN.TEACHER, and the SHA-256 of its file."""

    network: Network
    sha256: str


class Teacher:
    """A network whose answers are targets.

    Args:
        model: clips to logits, on the device, in evaluation mode.
        places: the teacher's output for each class of the student.
        scale, shift: turn clips normalised for the student into the teacher's, per channel.
        weight: w in the loss; at 1 labels are not used.
        temperature: T in the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[int],
        *,
        scale: Sequence[float],
        shift: Sequence[float],
        weight: float,
        temperature: float,
    ) -> None:
        self.model, self.weight, self.temperature = model, weight, temperature
        device = next(model.parameters()).device
        self._places = torch.tensor(places, device=device)
        self._scale, self._shift = (torch.tensor(values, device=device).view(-1, 1, 1, 1) for values in (scale, shift))

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` in the student's order of classes, from the student's clips."""
        return self.model(torch.addcmul(self._shift, clips, self._scale))[:, self._places].float()

    def loss(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Return the mean of ``T^2 KL(softmax(answers / T) || softmax(logits / T))`` over the clips."""
        student, teacher = ((values / self.temperature).log_softmax(1) for values in (logits, answers))
        return self.temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def read_teacher(cfg: CfgNode) -> TeacherFile | None:
    """Read the network of TRAIN.TEACHER; None without one.

    Raises:
        UserError: it is missing, or no checkpoint with a configuration.
    """
    if not cfg.TRAIN.TEACHER:
        return None
    name = cfg.TRAIN.TEACHER if cfg.TRAIN.TEACHER in list_models() else None
    path = weights_file(name) if name else local_file(cfg.TRAIN.TEACHER)
    try:
        network = load_network(None if name else path, model=name, as_2d=cfg.MODEL.CONV_AS_2D)
    except UserError as error:
        reason = str(error).replace("pass it with --cfg FILE", "a teacher needs a checkpoint that octvideo wrote")
        raise UserError(f"TRAIN.TEACHER: {reason}") from None
    return TeacherFile(network, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def build_teacher(cfg: CfgNode, file: TeacherFile, index: VideoIndex, device: torch.device) -> Teacher:
    """Return the teacher of a run that trains on ``index``.

    Raises:
        UserError: it has other classes, or cannot take the student's clips.
    """
    network = file.network
    own, data = network.cfg.DATA, cfg.DATA
    model = fold_batch_norm(network.model).to(device)
    teacher = Teacher(
        channels_last(model) if cfg.MODEL.CONV_AS_2D else model,
        _places(index, network.classes, cfg),
        scale=[mine / its for mine, its in zip(data.STD, own.STD)],
        shift=[(mine - its) / std for mine, its, std in zip(data.MEAN, own.MEAN, own.STD)],
        weight=cfg.TRAIN.TEACHER_WEIGHT if (index.labels >= 0).all() else 1.0,
        temperature=cfg.TRAIN.TEACHER_TEMPERATURE,
    )
    try:
        teacher(torch.zeros(1, 3, data.NUM_FRAMES, data.TRAIN_CROP, data.TRAIN_CROP, device=device))
    except (RuntimeError, ValueError) as error:
        clips = f"{data.NUM_FRAMES} frames of {data.TRAIN_CROP} pixels"
        raise UserError(
            f"TRAIN.TEACHER ({cfg.TRAIN.TEACHER}) cannot take clips of {clips} ({one_line(error)[:150]}); it was "
            f"trained on {own.NUM_FRAMES} frames of {own.TRAIN_CROP}: set DATA.NUM_FRAMES and DATA.TRAIN_CROP so"
        ) from None
    return teacher


def _places(index: VideoIndex, known: Sequence[str], cfg: CfgNode) -> list[int]:
    """Return the teacher's output for each class of the data; it may have further classes."""
    names, source = index.classes, f"DATA.TRAIN ({cfg.DATA.TRAIN})"
    if len(names) == len(known) and is_numbered(known):
        return list(range(len(names)))  # weights without names
    if all(map(is_number, names)) and len(names) != len(known):
        raise UserError(
            f"TRAIN.TEACHER ({cfg.TRAIN.TEACHER}) has {len(known)} classes, but {source} has {len(names)}, as numbers: "
            "give class names in place of numbers (docs/data.md)"
        )
    places = match(names, known)
    if None in places:
        name = names[places.index(None)]
        raise UserError(
            f"TRAIN.TEACHER ({cfg.TRAIN.TEACHER}) does not know the class {name!r} of {source}"
            f"{did_you_mean(name, known)}; its classes: {', '.join(known[:6])}{', ...' if len(known) > 6 else ''}"
        )
    return [place for place in places if place is not None]
