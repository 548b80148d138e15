"""The moving average of the weights, and precise batch-norm statistics."""

from __future__ import annotations

import pytest
import torch
from runs import call, equal, weights
from torch import nn

from octvideo.config import load_cfg
from octvideo.engine import train
from octvideo.engine.averaging import precise_batch_norm, weight_average
from octvideo.errors import UserError
from octvideo.models import build_model

_STOP = ["TRAIN.STEPS", "6", "TEST.ENABLE", "False"]


def test_average_by_hand():
    model = nn.BatchNorm1d(2)
    average = weight_average(model, 0.9)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(10 * value)
        average.update_parameters(model)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3  # the first update copies the value
    torch.testing.assert_close(average.module.weight, torch.full((2,), expected))
    torch.testing.assert_close(average.module.running_mean, torch.full((2,), 10 * expected))


def test_run_resumes_with_its_average(small_run, tmp_path):
    more = [*_STOP, "TRAIN.EMA", "0.7"]
    assert call(small_run("plain", *_STOP)) == 0 and call(small_run("whole", *more)) == 0
    plain, whole = weights(tmp_path / "plain"), weights(tmp_path / "whole")
    assert plain.keys() == whole.keys() and not equal(plain, whole)
    # The average does not change the trained weights.
    step = "step_00000006.pt"
    assert equal(weights(tmp_path / "plain", step), weights(tmp_path / "whole", step))
    # As if stopped at step 3.
    for path in (tmp_path / "whole" / "checkpoints").glob("*.pt"):
        if path.name != "step_00000003.pt":
            path.unlink()
    assert call(small_run("whole", *more)) == 0
    assert equal(weights(tmp_path / "whole"), whole)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_precise_statistics_by_hand(alpha):
    torch.manual_seed(0)
    keys = ["MODEL.BLOCKS", "[1,1,1,1]", "MODEL.WIDTH", "8", "MODEL.NUM_CLASSES", "3", "OCTAVE.ALPHA", str(alpha)]
    model = build_model(load_cfg(None, keys))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    clips = [torch.randn(2, 3, 4, 32, 32) for _ in range(3)]
    precise_batch_norm(model, iter(clips), 3)
    assert not any(module.training for module in model.modules())
    found = model.state_dict()
    changed = {key for key in state if not torch.equal(state[key], found[key])}
    norms = {key for key in state if key.endswith(("running_mean", "running_var"))}
    assert norms and changed == norms
    stem = model.blocks[0]
    with torch.no_grad():
        outputs = torch.cat([stem.conv(clip) for clip in clips])
    torch.testing.assert_close(stem.norm.running_mean, outputs.mean((0, 2, 3, 4)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stem.norm.running_var, outputs.var((0, 2, 3, 4)), atol=1e-4, rtol=1e-3)


def test_precise_statistics_change_no_other_weight(small_run, tmp_path):
    assert call(small_run("plain", *_STOP)) == 0
    assert call(small_run("precise", *_STOP, "TRAIN.PRECISE_BN", "2")) == 0
    plain, precise = weights(tmp_path / "plain"), weights(tmp_path / "precise")
    different = {key for key in plain if not torch.equal(plain[key], precise[key])}
    assert any(key.endswith("running_var") for key in different)
    assert all(key.endswith(("running_mean", "running_var")) for key in different)


def test_interrupted_end_gets_precise_statistics(small_run, tmp_path, monkeypatch, capsys):
    """Its last evaluation fails where they are taken, or it is killed before ``last.pt`` is written."""
    arguments = [*_STOP, "TRAIN.PRECISE_BN", "2", "TRAIN.EVAL_EVERY", "6"]
    assert call(small_run("whole", *arguments)) == 0
    whole = weights(tmp_path / "whole")
    (tmp_path / "whole" / "checkpoints" / "last.pt").unlink()
    assert call(small_run("whole", *arguments)) == 0
    assert equal(weights(tmp_path / "whole"), whole)

    def fail(*_):
        raise UserError("no video can be read")

    with monkeypatch.context() as patch:
        patch.setattr(train, "precise_batch_norm", fail)
        assert call(small_run("failed", *arguments)) == 2
    assert "no video can be read" in capsys.readouterr().err
    assert not equal(weights(tmp_path / "failed", "step_00000006.pt"), whole)
    assert call(small_run("failed", *arguments)) == 0
    assert equal(weights(tmp_path / "failed"), whole)
