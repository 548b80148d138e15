"""Learning-rate schedules and optimisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from octvideo.config import load_cfg
from octvideo.engine.optim import build_optimizer, build_schedule, full_lr
from octvideo.errors import UserError
from octvideo.models import build_model


def cfg_of(text):
    return load_cfg(None, text.split())


def test_cosine_after_warm_up():
    cfg = cfg_of("SOLVER.BASE_LR 0.2 TRAIN.STEPS 100 SOLVER.WARMUP_STEPS 20 SOLVER.WARMUP_START 0.1")
    schedule = build_schedule(cfg)
    assert schedule(0.0) == pytest.approx(0.02)
    assert schedule(0.1) == pytest.approx(0.11)
    assert schedule(0.2) == pytest.approx(0.2)
    assert schedule(0.6) == pytest.approx(0.1)  # the middle of the cosine
    assert schedule(0.999999) == pytest.approx(0, abs=1e-4)


def test_steps_after_warm_up():
    schedule = build_schedule(cfg_of("SOLVER.SCHEDULE steps SOLVER.BASE_LR 1 TRAIN.STEPS 100"))
    assert [round(schedule(at), 4) for at in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    warm = build_schedule(
        cfg_of("SOLVER.SCHEDULE steps SOLVER.BASE_LR 1 TRAIN.STEPS 100 SOLVER.WARMUP_STEPS 10 SOLVER.WARMUP_START 0")
    )
    assert [round(warm(at), 4) for at in (0, 0.05, 0.1, 0.49, 0.5, 0.75)] == [0, 0.5, 1, 1, 0.1, 0.01]


@pytest.mark.parametrize(("steps", "milestones"), [(3, "[0.5,0.75]"), (1, "[0.5,0.75]"), (100, "[0.001]")])
def test_too_few_steps_for_milestones(steps, milestones):
    cfg = cfg_of(f"SOLVER.SCHEDULE steps TRAIN.STEPS {steps} SOLVER.MILESTONES {milestones}")
    with pytest.raises(UserError, match=rf"^SOLVER.MILESTONES is .*TRAIN.STEPS \({steps}\) is too few"):
        build_schedule(cfg)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nesterov_needs_momentum(momentum):
    optimizer = build_optimizer(cfg_of(f"SOLVER.MOMENTUM {momentum}"), nn.Linear(2, 2))
    assert all(group["momentum"] == momentum for group in optimizer.param_groups)
    assert all(group["nesterov"] == (momentum > 0) for group in optimizer.param_groups)


def test_rate_scales_with_batch():
    assert full_lr(cfg_of("SOLVER.BASE_LR 0.1 SOLVER.BASE_BATCH_SIZE 64 TRAIN.BATCH_SIZE 256")) == pytest.approx(0.4)
    assert full_lr(cfg_of("SOLVER.BASE_LR 0.1 SOLVER.BASE_BATCH_SIZE 0 TRAIN.BATCH_SIZE 256")) == pytest.approx(0.1)


@pytest.mark.parametrize("alpha", ["0", "0.25"])
@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_vectors_are_not_decayed(alpha, name, kind):
    text = f"MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 OCTAVE.ALPHA {alpha} SOLVER.OPTIMIZER {name} SOLVER.WEIGHT_DECAY 0.3"
    cfg = cfg_of(text)
    net = build_model(cfg)
    optimizer = build_optimizer(cfg, net)
    assert isinstance(optimizer, kind)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter in net.parameters():
        assert decay[id(parameter)] == (0.3 if parameter.dim() > 1 else 0.0)
    everything = build_optimizer(cfg_of(f"{text} SOLVER.DECAY_NORM True"), net)
    assert {group["weight_decay"] for group in everything.param_groups} == {0.3}
