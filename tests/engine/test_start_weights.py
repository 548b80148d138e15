"""Weights to start from: layouts of other projects, other heads, other networks."""

from __future__ import annotations

import pytest
import torch
from pytorchvideo.models import hub
from runs import call
from torch import nn

from octvideo.config import load_cfg
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.models.checkpoints import load_weights


def cfg_of(text):
    return load_cfg(None, text.split())


@pytest.mark.parametrize("layout", ["model", "model_state", "state_dict", "bare", "prefixed"])
def test_other_layouts_load_at_every_alpha(tmp_path, layout):
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


def test_other_networks_are_refused(tmp_path):
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


def test_warm_start_replaces_the_head(small_run, tmp_path, capsys):
    assert call(small_run("first", "TEST.ENABLE", "False", "TRAIN.STEPS", "2")) == 0
    first = str(tmp_path / "first" / "checkpoints" / "last.pt")
    capsys.readouterr()
    (tmp_path / "five.txt").write_text("down\nleft\nright\nturn\nup\n")
    classes = ["DATA.CLASSES", str(tmp_path / "five.txt"), "MODEL.NUM_CLASSES", "0"]
    more = ["TRAIN.CHECKPOINT", first, *classes, "TRAIN.STEPS", "1", "OCTAVE.ALPHA", "0.5"]
    assert call(small_run("second", *more)) == 0
    assert "2 replaced: blocks.6.proj.weight" in capsys.readouterr().err
    assert call(small_run("third", "TRAIN.CHECKPOINT", first, "MODEL.WIDTH", "16")) == 2
    assert "the weights are of another network" in capsys.readouterr().err
