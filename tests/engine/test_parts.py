"""Schedules, optimisers, metrics and checkpoints by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorchvideo.models import hub
from torch import nn

from octvideo.config import load_cfg
from octvideo.engine.checkpoints import _KEYS, newest_checkpoint, prune, save_checkpoint, step_path
from octvideo.engine.metrics import confusion_matrix, per_class_accuracy, top_k_accuracy
from octvideo.engine.optim import build_optimizer, build_schedule, full_lr
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights


def cfg_of(text):
    return load_cfg(None, text.split())


def test_cosine_with_warm_up():
    cfg = cfg_of("SOLVER.BASE_LR 0.2 TRAIN.STEPS 100 SOLVER.WARMUP_STEPS 20 SOLVER.WARMUP_START 0.1")
    schedule = build_schedule(cfg)
    assert schedule(0.0) == pytest.approx(0.02)
    assert schedule(0.1) == pytest.approx(0.11)
    assert schedule(0.2) == pytest.approx(0.2)
    assert schedule(0.6) == pytest.approx(0.1)  # the middle of the cosine
    assert schedule(0.999999) == pytest.approx(0, abs=1e-4)


def test_steps():
    schedule = build_schedule(cfg_of("SOLVER.SCHEDULE steps SOLVER.BASE_LR 1 TRAIN.STEPS 100"))
    assert [round(schedule(at), 4) for at in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    warm = build_schedule(
        cfg_of("SOLVER.SCHEDULE steps SOLVER.BASE_LR 1 TRAIN.STEPS 100 SOLVER.WARMUP_STEPS 10 SOLVER.WARMUP_START 0")
    )
    assert [round(warm(at), 4) for at in (0, 0.05, 0.1, 0.49, 0.5, 0.75)] == [0, 0.5, 1, 1, 0.1, 0.01]


@pytest.mark.parametrize(("steps", "milestones"), [(3, "[0.5,0.75]"), (1, "[0.5,0.75]"), (100, "[0.001]")])
def test_too_few_steps_for_the_milestones(steps, milestones):
    cfg = cfg_of(f"SOLVER.SCHEDULE steps TRAIN.STEPS {steps} SOLVER.MILESTONES {milestones}")
    with pytest.raises(UserError, match=rf"^SOLVER.MILESTONES is .*TRAIN.STEPS \({steps}\) is too few"):
        build_schedule(cfg)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nesterov_needs_momentum(momentum):
    optimizer = build_optimizer(cfg_of(f"SOLVER.MOMENTUM {momentum}"), nn.Linear(2, 2))
    assert all(group["momentum"] == momentum for group in optimizer.param_groups)
    assert all(group["nesterov"] == (momentum > 0) for group in optimizer.param_groups)


def test_linear_scaling():
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


def test_metrics_by_hand():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]])
    labels = torch.tensor([1, 0, 0, 0])
    assert top_k_accuracy(scores, labels, 1) == 50
    assert top_k_accuracy(scores, labels, 2) == 75
    assert top_k_accuracy(scores, labels, 5) == 100
    confusion = confusion_matrix(scores.argmax(1), labels, 3)
    assert np.array_equal(confusion, [[1, 1, 1], [0, 1, 0], [0, 0, 0]])
    assert per_class_accuracy(scores.argmax(1), labels, 3) == [pytest.approx(100 / 3), 100, None]


def test_checkpoints_are_pruned_and_the_newest_good_one_is_found(tmp_path):
    said: list[str] = []
    assert newest_checkpoint(tmp_path, said.append) is None
    for step in (9, 10, 100):
        save_checkpoint({**dict.fromkeys(_KEYS), "step": step}, step_path(tmp_path, step))
    prune(tmp_path, 100, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010.pt", "step_00000100.pt"]
    assert newest_checkpoint(tmp_path, said.append)["step"] == 100 and not said
    step_path(tmp_path, 100).write_bytes(b"")
    assert newest_checkpoint(tmp_path, said.append)["step"] == 10
    assert len(said) == 1 and "step_00000100.pt: not a readable" in said[0] and "using the one before" in said[0]


def test_broken_checkpoints_of_later_steps_push_out_no_good_one(tmp_path):
    for step in (10, 20):
        step_path(tmp_path, step).write_bytes(b"good")
    for step in (30, 40):
        step_path(tmp_path, step).write_bytes(b"broken")
    prune(tmp_path, 20, 1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [step_path(tmp_path, n).name for n in (20, 30, 40)]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint({"step": 1}, path)

    class Unpicklable:
        def __reduce__(self):
            raise OSError("No space left on device")

    with pytest.raises(UserError, match="cannot be written.*No space left"):
        save_checkpoint({"step": Unpicklable()}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("layout", ["model", "model_state", "state_dict", "bare", "prefixed"])
def test_layouts_of_other_projects_load_at_every_alpha(tmp_path, layout):
    state = hub.i3d_r50(model_num_class=7).state_dict()
    payload = {"bare": state, "prefixed": {"model_state": {f"model.{key}": v for key, v in state.items()}}}
    torch.save(payload.get(layout, {layout: state}), tmp_path / "hub.pyth")
    for alpha in ("0", "0.1"):
        net = build_model(cfg_of(f"MODEL.NUM_CLASSES 7 OCTAVE.ALPHA {alpha}"))
        report = load_weights(net, tmp_path / "hub.pyth", strict=True)
        assert len(report.matched) == len(state) and not report.missing
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    other = build_model(cfg_of("MODEL.NUM_CLASSES 5"))
    before = other.blocks[-1].proj.weight.clone()
    report = load_weights(other, tmp_path / "hub.pyth")
    assert len(report.replaced) == 2 and torch.equal(before, other.blocks[-1].proj.weight)
    assert "2 replaced: blocks.6.proj.weight, blocks.6.proj.bias" in str(report)


def test_what_does_not_fit_is_refused(tmp_path):
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "linear.pt")
    net = build_model(cfg_of("MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8"))
    with pytest.raises(UserError, match="linear.pt: the weights are of another network"):
        load_weights(net, tmp_path / "linear.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(UserError, match="no state dict found"):
        load_weights(net, tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_weights(net, tmp_path / "text.pt")
