from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from octvideo.backends import runners
from octvideo.backends.runners import FORMATS, TOLERANCE, create_runner, relative_difference
from octvideo.cli import run
from octvideo.cli.export import main
from octvideo.engine.networks import load_network
from octvideo.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_backends_agree_with_the_network(checkpoint: Path, backend: str) -> None:
    pytest.importorskip(backend)
    if backend == "onnxruntime":
        pytest.importorskip("onnxscript")
    model = load_network(checkpoint).model
    runner = create_runner(backend, model, (8, 64, 64), CPU)
    for views in (1, 3):
        clips = torch.randn(views, 8, 64, 64, 3).permute(0, 4, 1, 2, 3)  # the memory format that clips come in
        with torch.no_grad():
            expected = model(clips)
        assert expected.std() > 0.05
        assert relative_difference(runner(clips), expected) <= TOLERANCE


@pytest.mark.parametrize("is_quantised", [False, True])
def test_signal_is_handled_after_networks_have_ended(is_quantised: bool) -> None:
    """OpenVINO changes the signal stack; where it leaves a freed one, the first signal kills Python."""
    pytest.importorskip("nncf" if is_quantised else "openvino")
    code = """
import gc, signal, sys, torch
from octvideo.backends.openvino_runner import OpenVinoRunner
from octvideo.backends.quantise import quantise
from octvideo.backends.runners import openvino_model

clip = torch.zeros(1, 3, 4, 8, 8)
network = torch.nn.Sequential(
    torch.nn.Conv3d(3, 8, 3), torch.nn.Conv3d(8, 8, 1), torch.nn.Flatten(), torch.nn.Linear(576, 2)
)
model = openvino_model(network.eval(), (4, 8, 8))
for _ in range(2):
    first, second = (OpenVinoRunner(quantise(model, [clip]) if sys.argv[1] == "True" else model) for _ in "ab")
    first(clip), second(clip)
    del first, second  # in the order in which they began
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code, str(is_quantised)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("number", [1, 2])
def test_other_runtimes_take_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As the runtimes themselves tell; they are the real ones."""
    openvino, onnxruntime = pytest.importorskip("openvino"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made: list[Any] = []

    def noted(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            made.append(make(*args, **more))
            return made[-1]

        return call

    monkeypatch.setattr(openvino.Core, "compile_model", noted(openvino.Core.compile_model))
    monkeypatch.setattr(onnxruntime, "InferenceSession", noted(onnxruntime.InferenceSession))
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        for backend in ("openvino", "onnxruntime"):
            create_runner(backend, network, (2, 4, 4), CPU)(torch.zeros(3, 3, 2, 4, 4))
    finally:
        torch.set_num_threads(before)
    compiled, session = made
    assert compiled.get_property("INFERENCE_NUM_THREADS") == number
    assert compiled.get_property("NUM_STREAMS") == number, "many clips: one on each thread"
    assert session.get_session_options().intra_op_num_threads == number


def test_unknown_backend_and_missing_package(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_network(checkpoint).model
    with pytest.raises(UserError, match="torch, openvino, onnxruntime"):
        create_runner("tensorrt", model, (8, 64, 64), CPU)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="pip install openvino"):
        create_runner("openvino", model, (8, 64, 64), CPU)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'octvideo\[export\]'"):
        create_runner("onnxruntime", model, (8, 64, 64), CPU)


_SLOW = [pytest.param(format, marks=pytest.mark.full) for format in ("onnx", "openvino")]


@pytest.mark.parametrize("format", ["torch-export", *_SLOW])
def test_exported_file_gives_same_logits(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    for package in {"onnx": ["onnxruntime", "onnxscript"], "openvino": ["openvino"], "torch-export": []}[format]:
        pytest.importorskip(package)
    output = tmp_path / "sub" / {"onnx": "a.onnx", "openvino": "a.xml", "torch-export": "a.pt2"}[format]
    assert run(main, ["--checkpoint", str(checkpoint), "--format", format, "--output", str(output)]) == 0
    assert output.stat().st_size > 10_000
    text = capsys.readouterr().out
    assert "largest difference of logits" in text
    assert float(text.split("random clips: ")[1].split()[0]) <= TOLERANCE


def test_wrong_export_ends_with_1(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another network: one weight differs."""
    save = runners.save_exported

    def save_another(model: torch.nn.Module, *arguments: Any) -> None:
        model = copy.deepcopy(model)
        with torch.no_grad():
            next(weight for name, weight in model.named_parameters() if name.endswith("proj.weight")).mul_(1.001)
        save(model, *arguments)

    monkeypatch.setattr(runners, "save_exported", save_another)
    output = tmp_path / "a.pt2"
    assert run(main, ["--checkpoint", str(checkpoint), "--format", "torch-export", "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"error: {output}: do not use this file" in error


@pytest.mark.parametrize(
    ("logits", "expected", "difference"),
    [([3.0, -4.0], [3.0, -4.0], 0.0), ([1.0, -4.5], [1.0, -4.0], 0.125), ([0.0], [0.0], 0.0), ([1.0], [0.0], math.inf)],
)
def test_difference_is_relative_to_the_largest_logit(
    logits: list[float], expected: list[float], difference: float
) -> None:
    assert relative_difference(torch.tensor(logits), torch.tensor(expected)) == difference
    assert math.isnan(relative_difference(torch.tensor([math.nan]), torch.ones(1)))


@pytest.mark.parametrize("format", ["torch-export", *_SLOW])
def test_full_disk_keeps_the_old_export(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str, small_files: None
) -> None:
    output = (tmp_path / "a").with_suffix(FORMATS[format])
    output.write_text("before")
    assert run(main, ["--checkpoint", str(checkpoint), "--format", format, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"error: {output}: cannot be written" in error
    assert output.read_text() == "before" and list(tmp_path.iterdir()) == [output]


def test_unwritable_place_fails_before_export(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "_export", lambda *_: pytest.fail("the export has begun"))
    arguments = ["--checkpoint", str(checkpoint), "--format", "torch-export", "--output", "/proc/a.pt2"]
    assert run(main, arguments) == 2
    assert "error: /proc/a.pt2: cannot be written" in capsys.readouterr().err


def test_export_errors(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--checkpoint", str(checkpoint), "--format", "onnx", "--output", str(tmp_path / "a.pt")]
    assert run(main, wrong) == 2
    assert ".onnx" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
