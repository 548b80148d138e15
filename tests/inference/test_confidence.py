from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import CLASSES

from octvideo.cli import run
from octvideo.cli.predict import main
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.inference.confidence import answers, calibrate
from octvideo.inference.sources import FrameReader
from octvideo.inference.stream import StreamPrediction, predict_stream

CLIP = "clips/actions/mmaction2_part_0.mp4"


@pytest.fixture(scope="module")
def with_other(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, whose second class is ``other``, with a threshold."""
    payload = torch.load(checkpoint, weights_only=True)
    payload["classes"] = [CLASSES[0], "other", *CLASSES[2:]]
    file = tmp_path_factory.mktemp("other") / "rejecting.pt"
    torch.save({**payload, "confidence": {"threshold": 0.99}}, file)
    return file


def test_threshold_keeps_the_share() -> None:
    known = np.random.default_rng(0).permutation(np.linspace(0.5, 0.99, 100)).tolist()
    found = calibrate(known, [0.1, 0.52, 0.9], keep=0.95)
    assert (found["known"], found["known_sure"], found["other"], found["other_sure"]) == (100, 95, 3, 1)
    assert found == calibrate(known, keep=0.95) | {"other": 3, "other_sure": 1}
    assert calibrate([0.4])["threshold"] == 0.4


def test_threshold_lies_halfway_between_known_and_other() -> None:
    assert calibrate([0.8, 0.9], [0.0, 0.2])["threshold"] == 0.5
    assert calibrate([0.8, 0.9], [0.0] * 99 + [0.7])["threshold"] == 0.4


def test_calibration_needs_clips() -> None:
    with pytest.raises(ValueError, match="no confidences"):
        calibrate([])


def test_other_is_no_answer() -> None:
    assert answers(["bend", "other", "walk"]) == [0, 2]
    assert answers(["other"]) == [0]


def test_predictor_never_answers_other(with_other: Path, checkpoint: Path, data: Path) -> None:
    predictor, plain = Predictor(with_other, device="cpu"), Predictor(checkpoint, device="cpu")
    assert predictor.classes == (CLASSES[0], *CLASSES[2:])
    found = predictor.predict(data / CLIP, top_k=100)
    assert found == [row for row in plain.predict(data / CLIP, top_k=100) if row.label != CLASSES[1]]
    assert (predictor.name, predictor.threshold, plain.threshold) == ("rejecting", 0.99, None)


def test_threshold_decides_what_is_sure(with_other: Path, checkpoint: Path, data: Path) -> None:
    found = Predictor(with_other, device="cpu").predict(data / CLIP)
    score = found[0].score
    thresholds = {None: False, score: True, float(np.nextafter(score, 1)): False, 0.0: None}
    for threshold, sure in thresholds.items():
        assert Predictor(with_other, device="cpu", threshold=threshold).is_sure(found) is sure
    assert Predictor(checkpoint, device="cpu").is_sure(found) is None
    assert Predictor(checkpoint, device="cpu", threshold=0.99).is_sure(found) is False


def test_stream_tells_what_is_sure(with_other: Path, data: Path) -> None:
    for threshold, sure in ((None, False), (0.01, True), (0.0, None)):
        predictor = Predictor(with_other, device="cpu", threshold=threshold)
        with FrameReader(str(data / CLIP)) as reader:
            updates: list[StreamPrediction] = list(predict_stream(reader, predictor, top_k=1, max_frames=20))
        assert updates and {update.sure for update in updates} == {sure}


def test_bad_thresholds_are_user_errors(checkpoint: Path, tmp_path: Path) -> None:
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            Predictor(checkpoint, threshold=value)
    payload = torch.load(checkpoint, weights_only=True)
    for entry in ({}, {"threshold": "high"}, "0.5", {"threshold": None}):
        torch.save({**payload, "confidence": entry}, tmp_path / "bad.pt")
        with pytest.raises(UserError, match=r"bad\.pt: its entry `confidence`"):
            Predictor(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("threshold", "sure"), [((), False), (("--threshold", "0.01"), True), (("--threshold", "0"), None)]
)
def test_command_says_what_is_sure(
    with_other: Path, data: Path, capsys: pytest.CaptureFixture[str], threshold: tuple[str, ...], sure: bool | None
) -> None:
    arguments = [str(data / CLIP), "--checkpoint", str(with_other), "--top-k", "2", *threshold]
    assert run(main, [*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["sure"], record["model"]) == (sure, "rejecting")
    assert captured.err.startswith("rejecting knows 5 classes: bend, jump, run, walk, wave\nbackend: ")
    best = record["predictions"][0]["label"]
    for stream in ((), ("--webcam",)):
        assert run(main, [*stream, *arguments]) == 0
        assert (f"not sure (closest: {best}" in capsys.readouterr().out) == (sure is False)


def test_bad_threshold_is_refused(data: Path) -> None:
    for value in ("2", "-0.1", "nan", "high"):
        with pytest.raises(SystemExit) as caught:
            main([str(data / CLIP), f"--threshold={value}"])
        assert caught.value.code == 2


def test_app_shows_not_sure(with_other: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from octvideo.app.networks import Networks
    from octvideo.app.page import build_page

    (tmp_path / "clip.mp4").symlink_to((data / CLIP).resolve())
    create = functools.partial(Predictor, device="cpu")
    for threshold, sure in ((None, False), (0.0, None)):
        networks = Networks(create, "rejecting.pt", {"checkpoint": with_other, "threshold": threshold})
        [predict] = [block.fn for block in build_page(networks).fns.values() if block.api_name == "predict"]
        answer, video = predict(str(tmp_path / "clip.mp4"), "rejecting.pt")
        assert Path(video).is_file()
        assert isinstance(answer, dict) if sure is None else answer.startswith("not sure (closest: ")
