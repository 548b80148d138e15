"""What a training can have beside the plain steps: averages, true statistics, recomputing, compiling, epochs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.config import load_cfg
from octvideo.engine import train
from octvideo.engine.averaging import precise_batch_norm, weight_average
from octvideo.errors import UserError
from octvideo.models import Stage, build_model
from octvideo.octave import merge

_STOP = ["TRAIN.STEPS", "6", "TEST.ENABLE", "False"]


def call(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    return run(main, arguments)


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def lines(folder: Path, kind: str) -> list[dict]:
    return [
        line for text in (folder / "log.jsonl").read_text().splitlines() if (line := json.loads(text))["kind"] == kind
    ]


def test_the_average_by_hand():
    model = nn.BatchNorm1d(2)
    average = weight_average(model, 0.9)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(10 * value)
        average.update_parameters(model)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3  # the first update takes the value as it is
    torch.testing.assert_close(average.module.weight, torch.full((2,), expected))
    torch.testing.assert_close(average.module.running_mean, torch.full((2,), 10 * expected))


def test_a_run_keeps_the_average_and_goes_on_with_it(small_run, tmp_path):
    more = [*_STOP, "TRAIN.EMA", "0.7"]
    assert call(small_run("plain", *_STOP)) == 0 and call(small_run("whole", *more)) == 0
    plain, whole = weights(tmp_path / "plain"), weights(tmp_path / "whole")
    assert plain.keys() == whole.keys() and not equal(plain, whole)
    # The average is beside the trained weights, which it does not change.
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


def test_precise_statistics_change_what_is_tested_alone(small_run, tmp_path):
    assert call(small_run("plain", *_STOP)) == 0
    assert call(small_run("precise", *_STOP, "TRAIN.PRECISE_BN", "2")) == 0
    plain, precise = weights(tmp_path / "plain"), weights(tmp_path / "precise")
    different = {key for key in plain if not torch.equal(plain[key], precise[key])}
    assert any(key.endswith("running_var") for key in different)
    assert all(key.endswith(("running_mean", "running_var")) for key in different)


def test_a_run_that_ends_after_its_last_step_still_gets_precise_statistics(small_run, tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize("arch", ["i3d", "slowfast"])
def test_recomputing_changes_nothing_but_memory(arch):
    """Losses, gradients and statistics to the bit; and the blocks do run twice."""
    keys = ["MODEL.BLOCKS", "[1,2,1,1]", "MODEL.WIDTH", "8", "MODEL.NUM_CLASSES", "3", "OCTAVE.ALPHA", "0.5"]
    keys += ["MODEL.ARCH", arch]
    clips, labels = torch.randn(2, 3, 8, 48, 48), torch.tensor([0, 2])
    found = []

    def note(calls: list[int]) -> Callable[..., None]:
        return lambda *_: calls.append(1)

    for stages in (set(), {3, 4}):
        torch.manual_seed(0)
        model = build_model(load_cfg(None, keys)).train()
        calls: list[int] = []
        for stage in model.modules():
            if isinstance(stage, Stage):
                stage.recompute = stage.number in stages
                if stage.number == 3:
                    stage.res_blocks[1].branch2.conv_b.register_forward_hook(note(calls))
        torch.manual_seed(1)
        loss = nn.functional.cross_entropy(model(clips), labels)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((len(calls), {"loss": loss.detach()}, gradients, model.state_dict()))
    (once, *plain), (again, *recomputed) = found
    assert again == 2 * once > 0
    assert all(equal(a, b) for a, b in zip(plain, recomputed))


def test_compiled_runs_are_runs(small_run, tmp_path):
    """Dynamo's capture; inductor compiles for minutes. The weights have the same names, and either goes on."""
    keys = [*_STOP, "MODEL.CONV_AS_2D", "False"]
    assert call(small_run("plain", *keys)) == 0
    assert call(small_run("compiled", *keys, "TRAIN.COMPILE", "aot_eager")) == 0
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, atol=2e-3, rtol=1e-2)
    assert call(small_run("compiled", *keys[2:], "TRAIN.STEPS", "7")) == 0


@pytest.mark.parametrize("alpha", [pytest.param("0", marks=pytest.mark.full), "0.5"])
def test_recomputing_is_compiled(alpha):
    """Stem and first stage, compiled and recomputed: features, gradients and statistics are those of neither."""
    keys = ["MODEL.BLOCKS", "[2,1,1,1]", "MODEL.WIDTH", "8", "MODEL.NUM_CLASSES", "3", "OCTAVE.ALPHA", alpha]
    clips = torch.randn(2, 3, 4, 32, 32)
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model(load_cfg(None, keys)).train()
        model.blocks = model.blocks[:2]
        model.blocks[1].recompute = recompute
        if recompute:
            model.compile(backend="aot_eager")
        features = merge(model(clips))
        features.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append(({"features": features.detach()}, gradients, model.state_dict()))
    for plain, compiled in zip(*found):
        for name, value in plain.items():
            torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=1e-4)


def test_epochs(small_run, tmp_path, capsys):
    """8 videos in batches of 4: one and a half passes are 3 steps."""
    assert call(small_run("out", "TRAIN.EPOCHS", "1.5", "TEST.ENABLE", "False")) == 0
    assert torch.load(tmp_path / "out" / "checkpoints" / "last.pt", weights_only=True)["step"] == 3
    assert "3 steps, 1.5 passes" in capsys.readouterr().err


def test_evaluation_of_some_videos(small_run, tmp_path):
    keys = ["TRAIN.EVAL_EVERY", "3", "TRAIN.EVAL_VIDEOS", "3", "TRAIN.EVAL_CLIPS", "2", "TRAIN.EVAL_CROPS", "3"]
    assert call(small_run("out", *_STOP, *keys)) == 0
    shares = [line["top1"] for line in lines(tmp_path / "out", "val")]
    assert len(shares) == 2 and all(min(abs(share - 100 * hits / 3) for hits in range(4)) < 1e-3 for share in shares)
    last = lines(tmp_path / "out", "train")[-1]
    assert last["peak_memory_mb"] > 50 and last["compute_time"] == pytest.approx(last["step_time"] - last["data_time"])
    assert last["wait_time"] == 0, "there is no other rank"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TRAIN.EMA", "1.0"),
        ("TRAIN.EPOCHS", "-1"),
        ("TRAIN.RECOMPUTE", "[1]"),
        ("TRAIN.EVAL_CROPS", "2"),
        ("TRAIN.COMPILE", "True"),
    ],
)
def test_wrong_values_are_named(small_run, capsys, key, value):
    assert call(small_run("out", key, value)) == 2
    assert key in capsys.readouterr().err


def test_a_batch_of_one_value_a_channel_is_refused(small_run, capsys):
    arguments = "MODEL.ARCH c2d DATA.NUM_FRAMES 2 TRAIN.BATCH_SIZE 1 DATA.TRAIN_SHORT_SIDE [100000,100000]".split()
    assert run(main, small_run("out", *arguments)) == 2  # the crop of one pixel is no fault
    assert "batch norm has one value per channel in clips (1, 3, 2, 32, 32): set a larger" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_good_checkpoint(small_run, tmp_path):
    """The kernel refuses to let a file grow past a limit, as it does where the disk is full."""
    assert call(small_run("out", "TRAIN.STEPS", "3", "TEST.ENABLE", "False")) == 0
    checkpoints = tmp_path / "out" / "checkpoints"
    good = checkpoints / "step_00000003.pt"
    before, limit = good.read_bytes(), good.stat().st_size // 2
    code = (
        "import resource, sys; from octvideo.cli import run; from octvideo.cli.run_net import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.exit(run(main, sys.argv[1:]))"
    )
    arguments = small_run("out", "TRAIN.STEPS", "9", "TEST.ENABLE", "False")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "step_00000006.pt: cannot be written" in last and "free some space" in last
    assert good.read_bytes() == before and not list(checkpoints.glob(".*"))
    assert call(arguments) == 0  # goes on from it
