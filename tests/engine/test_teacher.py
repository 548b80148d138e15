"""Distillation: what the loss is, whose classes count, and that a run resumes with the same teacher only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.config import load_cfg
from octvideo.data import normalize_clips
from octvideo.engine.networks import load_network
from octvideo.engine.teacher import Teacher
from octvideo.models import build_model

SmallRun = Callable[..., list[str]]


@pytest.fixture
def teacher(small_run: SmallRun, tmp_path: Path) -> Path:
    """The checkpoint of a vanilla network with random weights, whose classes are in another order than the data's."""
    arguments = small_run("none", "OCTAVE.ALPHA", "0.0", "MODEL.WIDTH", "12", "DATA.MEAN", "[0.5,0.4,0.3]")
    cfg = load_cfg(arguments[1], arguments[2:])
    torch.manual_seed(3)
    path = tmp_path / "teacher.pt"
    state = build_model(cfg).state_dict()
    torch.save(
        {"model": state, "config": cfg.dump(), "classes": ["right", "down"], "seen": {"videos": ["0" * 16]}}, path
    )
    return path


def _losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record.get("type", record.get("kind")) == "train" or "lr" in record]


def test_loss_is_hintons() -> None:
    torch.manual_seed(0)
    logits, answers = torch.randn(5, 4), torch.randn(5, 4)
    teacher = Teacher(nn.Conv3d(3, 4, 1), range(4), scale=[1.0] * 3, shift=[0.0] * 3, weight=0.5, temperature=3.0)
    p, q = (answers / 3).softmax(1), (logits / 3).softmax(1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(teacher.loss(logits, answers), expected)


def test_answers_are_the_teachers_own(teacher: Path) -> None:
    """From clips that are normalised for the student, in the student's order of classes."""
    network = load_network(teacher)
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.45] * 3), torch.tensor([0.225] * 3)
    own = torch.tensor(network.cfg.DATA.MEAN)
    answers = Teacher(
        network.model, [1, 0], scale=[1.0] * 3, shift=((mean - own) / std).tolist(), weight=0.5, temperature=1.0
    )(normalize_clips(frames, mean.tolist(), std.tolist()))
    with torch.no_grad():
        expected = network.model(normalize_clips(frames, network.cfg.DATA.MEAN, network.cfg.DATA.STD))
    torch.testing.assert_close(answers, expected.flip(1), rtol=1e-4, atol=1e-5)


def test_student_learns_the_teachers_answers(small_run: SmallRun, teacher: Path, tmp_path: Path) -> None:
    """Without labels, with mixup, and in two parts: the student agrees with the teacher more and more."""
    videos = sorted((Path(small_run("x")[3])).rglob("*.mp4"))
    unlabelled = tmp_path / "clips.txt"
    unlabelled.write_text("".join(f'"{video}"\n' for video in videos))
    keys = ["TRAIN.TEACHER", str(teacher), "DATA.TRAIN", str(unlabelled), "TRAIN.MIXUP", "0.2", "TRAIN.ACCUMULATE", "2"]
    arguments = small_run("run", *keys, "TRAIN.STEPS", "30", "TRAIN.PRECISE_BN", "1")
    assert run(main, arguments) == 0
    losses = _losses(tmp_path / "run")
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["classes"] == ["right", "down"] and len(state["teacher"]) == 64
    assert "0" * 16 in state["seen"]["videos"], "what the teacher was trained on counts as seen"


def test_teacher_by_name(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The small network that ships, from which clips without labels get the classes."""
    videos = sorted((Path(small_run("x")[3])).rglob("*.mp4"))
    unlabelled = tmp_path / "clips.txt"
    unlabelled.write_text("".join(f'"{video}"\n' for video in videos))
    keys = ["--teacher", "oct_i3d_small", "DATA.TRAIN", str(unlabelled), "MODEL.NUM_CLASSES", "0"]
    assert run(main, small_run("run", *keys, "TRAIN.STEPS", "1", "TEST.ENABLE", "False")) == 0
    assert "100% of the loss, as the videos have no labels" in capsys.readouterr().err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert "bend" in state["classes"]


def test_videos_without_labels_need_a_teacher(
    small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlabelled = tmp_path / "clips.txt"
    unlabelled.write_text('"a clip.mp4"\n')
    keys = ["DATA.TRAIN", str(unlabelled), "TEST.ENABLE", "False"]
    assert run(main, small_run("run", *keys)) == 2
    assert "or a teacher (TRAIN.TEACHER)" in capsys.readouterr().err


def test_resume_is_bit_exact_with_a_teacher(
    small_run: SmallRun, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["TRAIN.TEACHER", str(teacher), "TEST.ENABLE", "False", "TRAIN.CHECKPOINT_EVERY", "2"]
    assert run(main, small_run("whole", *keys, "TRAIN.STEPS", "4")) == 0
    assert run(main, small_run("parts", *keys, "TRAIN.STEPS", "4")) == 0
    checkpoints = tmp_path / "parts" / "checkpoints"
    for name in ("last.pt", "step_00000004.pt"):
        (checkpoints / name).unlink()
    moved = teacher.rename(tmp_path / "moved.pt")
    assert run(main, small_run("parts", *keys, "TRAIN.STEPS", "4", "TRAIN.TEACHER", str(moved))) == 0
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    capsys.readouterr()
    assert run(main, small_run("parts", *keys[2:], "TRAIN.STEPS", "4")) == 2
    assert "its checkpoints have another TRAIN.TEACHER than none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "keys", "message"),
    [
        (["right", "dawn"], [], "does not know the class 'down'"),
        (
            ["right", "down"],
            ["MODEL.ARCH", "slowfast", "MODEL.WIDTH", "16"],
            "cannot take clips of 6 frames of 32 pixels",
        ),
    ],
)
def test_teacher_errors(
    classes: list[str],
    keys: list[str],
    message: str,
    small_run: SmallRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = small_run("none", *keys)
    if keys:
        config = Path(arguments[1])
        config.write_text(config.read_text().replace("  STEM_KERNEL: [1, 5, 5]\n", ""))
    cfg = load_cfg(arguments[1], arguments[2:])
    path = tmp_path / "teacher.pt"
    torch.save({"model": build_model(cfg).state_dict(), "config": cfg.dump(), "classes": classes}, path)
    assert run(main, small_run("run", "TRAIN.TEACHER", str(path), "DATA.NUM_FRAMES", "6")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: TRAIN.TEACHER") and message in error
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_teacher_without_configuration_is_refused(
    small_run: SmallRun, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(torch.load(teacher, weights_only=True)["model"], bare)
    assert run(main, small_run("run", "TRAIN.TEACHER", str(bare))) == 2
    assert "a teacher needs a checkpoint that octvideo wrote" in capsys.readouterr().err


def test_vanilla_weights_are_called_a_warm_start(
    small_run: SmallRun, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["TRAIN.CHECKPOINT", str(teacher), "MODEL.WIDTH", "12", "TRAIN.STEPS", "1", "TEST.ENABLE", "False"]
    assert run(main, small_run("run", *keys)) == 0
    captured = capsys.readouterr()
    assert (
        "a warm start: the weights were trained with no octave layers, the network has" in captured.out + captured.err
    )
