"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch import nn

from octvideo.errors import UserError

__all__ = ["build_optimizer", "build_schedule", "full_lr"]


def full_lr(cfg: CfgNode) -> float:
    """Return SOLVER.BASE_LR scaled linearly with the batch (Goyal et al., 2017)."""
    base = cfg.SOLVER.BASE_BATCH_SIZE
    return cfg.SOLVER.BASE_LR * (cfg.TRAIN.BATCH_SIZE / base if base else 1.0)


def build_schedule(cfg: CfgNode) -> ParamScheduler:
    """Return the learning rate as a function of the progress in [0, 1): a linear warm-up, then cosine or steps.

    Raises:
        UserError: two of SOLVER.MILESTONES are at the same step, or one is at the first or last step.
    """
    solver, lr = cfg.SOLVER, full_lr(cfg)
    if solver.SCHEDULE == "cosine":
        main: ParamScheduler = CosineParamScheduler(lr, lr * solver.END_LR)
    else:
        values = [lr * solver.GAMMA**drop for drop in range(len(solver.MILESTONES) + 1)]
        edges = [round(share * cfg.TRAIN.STEPS) for share in solver.MILESTONES]
        try:
            main = MultiStepParamScheduler(values, num_updates=cfg.TRAIN.STEPS, milestones=edges)
        except ValueError:
            raise UserError(
                f"SOLVER.MILESTONES is {solver.MILESTONES}: TRAIN.STEPS ({cfg.TRAIN.STEPS}) is too few: at least one "
                "step must be before, between and after them"
            ) from None
    warm = min(solver.WARMUP_STEPS / cfg.TRAIN.STEPS, 1.0)
    if not warm:
        return main
    if warm == 1.0:
        return LinearParamScheduler(lr * solver.WARMUP_START, lr)
    scaling = "rescaled" if solver.SCHEDULE == "cosine" else "fixed"
    warmup = LinearParamScheduler(lr * solver.WARMUP_START, lr)
    return CompositeParamScheduler([warmup, main], lengths=[warm, 1 - warm], interval_scaling=["rescaled", scaling])


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD or AdamW. Biases and batch-norm parameters (vectors) are decayed only with SOLVER.DECAY_NORM.

    Without momentum SOLVER.NESTEROV has no meaning, and PyTorch refuses it: it is ignored.
    """
    solver = cfg.SOLVER
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    vectors = [parameter for parameter in trainable if parameter.dim() <= 1]
    others = [parameter for parameter in trainable if parameter.dim() > 1]
    groups = [
        {"params": others, "weight_decay": solver.WEIGHT_DECAY},
        {"params": vectors, "weight_decay": solver.WEIGHT_DECAY if solver.DECAY_NORM else 0.0},
    ]
    if solver.OPTIMIZER == "adamw":
        return torch.optim.AdamW(groups, lr=full_lr(cfg), fused=True)
    nesterov = solver.NESTEROV and solver.MOMENTUM > 0
    return torch.optim.SGD(groups, lr=full_lr(cfg), momentum=solver.MOMENTUM, nesterov=nesterov, fused=True)
