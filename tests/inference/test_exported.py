"""Networks that were exported for OpenVINO, in float32 and in lower precisions, predict by themselves."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_network import CLASSES

from octvideo.backends import openvino_runner
from octvideo.backends.openvino_runner import core, has_bf16
from octvideo.benchmarking import precisions
from octvideo.cli import run
from octvideo.cli.export import main
from octvideo.cli.predict import main as predict
from octvideo.errors import UserError
from octvideo.inference import Predictor, exported

openvino = pytest.importorskip("openvino")
FRAMES = torch.randint(0, 256, (40, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(scope="module")
def weights(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with a threshold."""
    payload = torch.load(checkpoint, weights_only=True)
    path = tmp_path_factory.mktemp("weights") / "sure.pt"
    torch.save({**payload, "confidence": {"threshold": 0.25}}, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported."""
    path = tmp_path_factory.mktemp("exported") / "net.xml"
    assert run(main, ["--checkpoint", str(weights), "--format", "openvino", "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def videos(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of eight videos with labels of the network's classes."""
    path = tmp_path_factory.mktemp("list") / "videos.csv"
    with path.open("w", newline="") as file:
        for number, video in enumerate(sorted((video_folder / "val").rglob("*.mp4"))):
            csv.writer(file).writerow([video, CLASSES[number % len(CLASSES)]])
    return path


def _record(path: Path) -> dict:
    return json.loads(core().read_model(path).get_rt_info("octvideo").astype(str))


def test_exported_network_predicts_as_its_checkpoint(weights: Path, network: Path) -> None:
    expected, found = Predictor(weights, backend="torch", device="cpu"), Predictor(network)
    assert found.backend == "openvino (f32, exported)" and found.name == "net"
    assert (found.classes, found.threshold, found.views) == (expected.classes, 0.25, expected.views)
    assert dict(found.predict_frames(FRAMES)) == pytest.approx(dict(expected.predict_frames(FRAMES)), abs=1e-5)
    with pytest.raises(UserError, match="features need --backend torch"):
        found._torch_runner  # noqa: B018


def test_command_takes_it(network: Path, video_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(predict, [str(video_folder / "val"), "--checkpoint", str(network), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 8 and all(line["model"] == "net" for line in lines)


def test_files_that_do_not_fit(weights: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"cfg": "small.yaml"}, {"model": "oct_i3d_small"}):
        with pytest.raises(UserError, match="leave out --cfg and --model"):
            Predictor(network, **options)
    with pytest.raises(UserError, match="leave out --backend torch"):
        Predictor(network, backend="torch")
    with pytest.raises(UserError, match="gone.xml: no such file"):
        Predictor(tmp_path / "gone.xml")
    (tmp_path / "half.xml").write_bytes(network.read_bytes()[:3000])
    with pytest.raises(UserError, match="half.xml: OpenVINO cannot read it"):
        Predictor(tmp_path / "half.xml")
    foreign = core().read_model(network)
    foreign.set_rt_info("something else", ["other"])
    plain = openvino.Model(foreign.outputs, foreign.get_parameters(), "foreign")
    openvino.save_model(plain, tmp_path / "foreign.xml")
    with pytest.raises(UserError, match="foreign.xml: it has no configuration; export it again"):
        Predictor(tmp_path / "foreign.xml")
    # A file of bfloat16 is read where the CPU has none.
    record = _record(network) | {"precision": "bf16"}
    foreign.set_rt_info(json.dumps(record), "octvideo")
    openvino.save_model(foreign, tmp_path / "bf16.xml", compress_to_fp16=False)
    monkeypatch.setattr(exported, "has_bf16", lambda: False)
    assert Predictor(tmp_path / "bf16.xml").backend == "openvino (f32, exported)"


def test_cpu_without_bf16_is_one_line(
    weights: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openvino_runner, "has_bf16", lambda: False)
    path = tmp_path / "net.xml"
    arguments = ["--checkpoint", str(weights), "--format", "openvino", "--output", str(path)]
    assert run(main, [*arguments, "--precision", "bf16", "--calibrate", str(videos)]) == 2
    assert capsys.readouterr().err == "error: precision bf16: this CPU has none; use f32\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bfloat16")
def test_bf16_is_near(weights: Path, videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    arguments = ["--checkpoint", str(weights), "--format", "openvino", "--output", str(path)]
    assert run(main, [*arguments, "--precision", "bf16", "--calibrate", str(videos)]) == 0
    found = Predictor(path)
    assert found.backend == "openvino (bf16, exported)"
    expected = Predictor(weights, backend="torch", device="cpu").predict_frames(FRAMES)
    assert dict(found.predict_frames(FRAMES)) == pytest.approx(dict(expected), abs=0.02)


def test_int8_is_calibrated_and_measured(
    weights: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    path = tmp_path / "new" / "net.xml"
    arguments = ["--checkpoint", str(weights), "--format", "openvino", "--output", str(path)]
    assert run(main, [*arguments, "--precision", "int8", "--calibrate", str(videos)]) == 0
    out = capsys.readouterr().out
    assert f"{path}: openvino, int8" in out and "top-1 on 8 videos of" in out
    measured = _record(path)["measured"]
    assert measured["num_videos"] == 8 and set(measured["top1"]) == {"f32", "int8"} == set(measured["clip_ms"])
    for name, top1 in measured["top1"].items():
        assert f"  {name:5}{top1:6.1f} %" in out and top1 % 12.5 == 0
    operations = core().read_model(path).get_ordered_ops()
    assert all(_weights_are_int8(node) for node in operations if node.get_type_name() == "Convolution")
    [classifier] = [node for node in operations if node.get_type_name() == "MatMul"]
    assert not _weights_are_int8(classifier)
    found = Predictor(path)
    assert found.backend == "openvino (int8, exported)"
    expected = Predictor(weights, backend="torch", device="cpu").predict_frames(FRAMES)
    assert dict(found.predict_frames(FRAMES)) == pytest.approx(dict(expected), abs=0.1)


def test_other_is_no_answer_in_the_accuracy(
    weights: Path, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    payload = torch.load(weights, weights_only=True)
    payload["classes"] = [*CLASSES[:-1], "other"]
    [bias] = [value for key, value in payload["model"].items() if key.endswith("proj.bias")]
    bias[-1] = 100.0  # `other` has the highest score for every clip
    torch.save(payload, tmp_path / "other.pt")
    predictor = Predictor(tmp_path / "other.pt", device="cpu", backend="torch")
    with (tmp_path / "videos.csv").open("w", newline="") as file:
        for video in sorted((video_folder / "val").rglob("*.mp4"))[:2]:
            csv.writer(file).writerow([video, predictor.predict(video, top_k=1)[0].label])
    arguments = ["--checkpoint", str(tmp_path / "other.pt"), "--format", "openvino"]
    arguments += ["--output", str(tmp_path / "net.xml"), "--precision", "int8", "--calibrate"]
    assert run(main, [*arguments, str(tmp_path / "videos.csv")]) == 0
    assert "  f32   100.0 %" in capsys.readouterr().out


def _weights_are_int8(node: object) -> bool:
    """Follow the second input up to its constant."""
    source = node.input_value(1).get_node()  # type: ignore[attr-defined]
    while source.get_type_name() != "Constant":
        source = source.input_value(0).get_node()
    return source.get_element_type() == openvino.Type.i8


@pytest.mark.parametrize(
    ("top1", "seconds", "chosen"),
    [
        ({"f32": 90.0, "int8": 89.6}, {"f32": 2.0, "int8": 1.0}, "int8"),
        ({"f32": 90.0, "int8": 89.4}, {"f32": 2.0, "int8": 1.0}, "f32"),  # loses too much
        ({"f32": 90.0, "int8": 90.0}, {"f32": 1.0, "int8": 2.0}, "f32"),  # gains nothing
    ],
)
def test_auto_takes_the_fastest_that_is_right(top1: dict, seconds: dict, chosen: str) -> None:
    assert precisions.fastest(top1, seconds) == chosen


def test_wrong_uses_are_one_line(
    weights: Path, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--checkpoint", str(weights), "--format", "openvino", "--output", str(tmp_path / "net.xml")]
    unlabelled = tmp_path / "list.txt"
    unlabelled.write_text(f"{next((video_folder / 'val').rglob('*.mp4'))}\n")

    def error(*arguments: str) -> str:
        try:
            code = run(main, [*start, *arguments])
        except SystemExit as end:  # of argparse
            code = end.code
        assert code == 2 and not (tmp_path / "net.xml").exists()
        return capsys.readouterr().err.splitlines()[-1]

    assert "needs --calibrate PATH" in error("--precision", "int8")
    assert "--calibrate and --test go with --precision" in error("--calibrate", "x")
    assert "needs --format openvino" in error("--format", "onnx", "--precision", "int8", "--calibrate", "x")
    assert "its videos need labels" in error("--precision", "int8", "--calibrate", str(unlabelled))
    assert "the class 'down'" in error("--precision", "int8", "--calibrate", str(video_folder / "val"))


def test_logits_do_not_depend_on_the_clips_beside(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[[], exported.ExportedNetwork] = lambda: exported.load_exported_network(network)  # noqa: E731
    clips = torch.randn(5, 3, 8, 64, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = make().run
        together, alone = run(clips), torch.cat([run(clip[None]) for clip in clips])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, alone)
