"""The vectors before the classifier, of real videos, and the files that they go to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import CLASSES, small_cfg

from octvideo.cli import run
from octvideo.cli.predict import main
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.inference import Predictor
from octvideo.inference.features import Features, writing_features
from octvideo.models import build_model
from octvideo.models.classifier import find_classifier

CLIP = "clips/actions/mmaction2_part_0.mp4"  # 32 frames, 30 a second, but the last one comes a frame late


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ("TEST.NUM_CLIPS 3", 512),
        ("MODEL.ARCH slowfast", 576),
        ("MODEL.ARCH resnet50 DATA.NUM_FRAMES 1", 512),
    ],
)
def test_classifier_turns_features_into_logits(keys: str, size: int, data: Path, tmp_path: Path) -> None:
    """The test crop is larger than that of training, so a head has several places to average."""
    cfg = small_cfg(*"DATA.TEST_CROP 128 DATA.TEST_SHORT_SIDE 128 TEST.AVERAGE logits".split(), *keys.split())
    torch.manual_seed(1)
    weights = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "classes": CLASSES}
    torch.save(weights, tmp_path / "net.pt")
    predictor = Predictor(tmp_path / "net.pt", device="cpu")
    found = predictor.features(data / CLIP)
    assert found.vectors.shape == (1, size) and found.vectors.dtype == np.float32
    assert (found.start.item(), found.end.item()) == (0, pytest.approx(33 / 30))
    with torch.no_grad():
        classifier = find_classifier(load_network(tmp_path / "net.pt").model)
        scores = classifier(torch.from_numpy(found.vectors)).softmax(1)[0]
    expected = {prediction.label: prediction.score for prediction in predictor.predict(data / CLIP, top_k=6)}
    assert max(expected.values()) - min(expected.values()) > 1e-3
    for label, score in zip(CLASSES, scores.tolist(), strict=True):
        assert score == pytest.approx(expected[label], rel=1e-3)


def test_windows_cover_the_video(checkpoint: Path, data: Path) -> None:
    """32 frames, windows of 15 every 7: the last one ends with the video."""
    predictor = Predictor(checkpoint, device="cpu")
    found = predictor.features(data / CLIP, per_window=True)
    assert np.round(30 * found.start).tolist() == [0, 7, 14, 17]
    assert np.round(30 * found.end).tolist() == [15, 22, 29, 33]
    assert found.vectors.shape == (4, 512) and len(np.unique(found.vectors, axis=0)) == 4
    views = Predictor(checkpoint, device="cpu", views=2).features(data / CLIP)  # start at 0 and 17
    np.testing.assert_allclose(found.vectors[[0, 3]].mean(0), views.vectors[0], rtol=1e-4, atol=1e-5)


def test_files_keep_all_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [
        Features(rng.random((n, 3), dtype=np.float32), np.arange(n) / 2, np.arange(n) / 2 + 1) for n in (2, 1, 5000)
    ]
    names = ["a.mp4", "https://host/b.mp4", "dir/c d.mp4"]
    with writing_features(tmp_path / "new" / "f.npz", "net") as add:
        for name, part in zip(names, parts, strict=True):
            add(name, part)
    with np.load(tmp_path / "new" / "f.npz") as file:
        assert str(file["model"]) == "net" and file["features"].dtype == np.float32
        np.testing.assert_array_equal(file["features"], np.concatenate([part.vectors for part in parts]))
        np.testing.assert_array_equal(file["end"], np.concatenate([part.end for part in parts]))
        assert file["video"].tolist() == [names[0]] * 2 + [names[1]] + [names[2]] * 5000
    parquet = pytest.importorskip("pyarrow.parquet")
    with writing_features(tmp_path / "f.parquet", "net") as add:
        for name, part in zip(names, parts, strict=True):
            add(name, part)
    rows = parquet.read_table(tmp_path / "f.parquet").to_pylist()
    assert len(rows) == 5003 and list(rows[0]) == ["video", "start", "end", "features", "model"]
    assert rows[2] == {
        "video": names[1],
        "start": 0,
        "end": 1,
        "features": parts[1].vectors[0].tolist(),
        "model": "net",
    }


def test_features_of_several_videos(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, file = tmp_path / "broken.mp4", tmp_path / "f.npz"
    broken.write_bytes(b"no video")
    sources = [str(data / CLIP), str(broken), str(data / "weizmann/bend/lena_bend.avi")]
    options = ["--checkpoint", str(checkpoint), "--features", str(file), "--json"]
    assert run(main, [*sources, *options]) == 2
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    assert records == [
        {"video": sources[0], "model": "small", "vectors": 1, "size": 512},
        {"video": sources[2], "model": "small", "vectors": 1, "size": 512},
    ]
    assert "1 of 3 videos" in captured.err
    with np.load(file) as arrays:
        assert arrays["video"].tolist() == sources[::2] and arrays["features"].shape == (2, 512)
    before = file.read_bytes()
    assert run(main, [str(broken), *options, "--per-window"]) == 2
    assert "not written" in capsys.readouterr().err and file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "f.npz"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--features", "f.txt"],
        ["--features", "f.npz", "--output", "a.mp4"],
        ["--features", "f.npz", "--backend", "openvino"],
        ["--per-window"],
    ],
)
def test_options_that_exclude_features(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a.mp4", *arguments])
    assert caught.value.code == 2


def test_parquet_without_pyarrow_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="octvideo\\[parquet\\]"), writing_features(tmp_path / "f.parquet", "net"):
        pass
    assert not list(tmp_path.iterdir())
