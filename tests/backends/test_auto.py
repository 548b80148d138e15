"""``--backend auto`` and the cache of converted networks."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_network import save_checkpoint, small_cfg

from octvideo.backends import cache as network_cache
from octvideo.backends import runners
from octvideo.backends.auto import MANY_CLIPS
from octvideo.backends.cache import cache_folder, keep_network, network_key, read_network
from octvideo.cli import run
from octvideo.cli.predict import main
from octvideo.engine.networks import load_network
from octvideo.errors import UserError
from octvideo.inference import Predictor

pytest.importorskip("openvino")
SHAPE = (8, 64, 64)
FRAMES = torch.randint(0, 256, (40, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "octvideo" / "networks"


@pytest.fixture
def expected(checkpoint: Path) -> dict[str, float]:
    return dict(Predictor(checkpoint, backend="torch", device="cpu").predict_frames(FRAMES))


def _check(predictor: Predictor, expected: dict[str, float], backend: str) -> None:
    assert predictor.backend == backend
    assert dict(predictor.predict_frames(FRAMES)) == pytest.approx(expected, abs=1e-4)


def test_auto_converts_for_many_clips_and_finds_it_again(
    checkpoint: Path, expected: dict[str, float], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = f"torch (OpenVINO is faster from {MANY_CLIPS} clips on)"
    _check(Predictor(checkpoint, device="cpu", views=3, videos=(MANY_CLIPS - 1) // 3), expected, few)
    assert not cache.exists()
    _check(Predictor(checkpoint, device="cpu", videos=math.inf), expected, "openvino (converted now, once)")
    monkeypatch.setattr(runners, "_export", lambda *_: pytest.fail("converted twice"))
    again = Predictor(checkpoint, device="cpu")
    _check(again, expected, "openvino (converted before)")
    _check(Predictor(checkpoint, backend="openvino"), expected, "openvino")
    run = again._torch_runner
    assert run.features(torch.zeros(2, 3, *SHAPE)).shape[0] == 2, "auto has features, whatever it chose"
    with pytest.raises(UserError, match="features need --backend torch"):
        Predictor(checkpoint, backend="openvino")._torch_runner  # noqa: B018


def test_command_says_what_it_took(
    checkpoint: Path, video_folder: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(video_folder / "val" / "down" / "video 1.mp4")
    assert run(main, ["--checkpoint", str(checkpoint), video]) == 0
    assert f"backend: torch (OpenVINO is faster from {MANY_CLIPS} clips on)\n" in capsys.readouterr().err
    folder = str(video_folder / "val")  # eight videos
    assert run(main, ["--checkpoint", str(checkpoint), "--views", "8", folder]) == 0
    assert "backend: openvino (converted now, once)\n" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["network.bin", "network.xml"])
def test_broken_network_is_made_anew(checkpoint: Path, expected: dict[str, float], cache: Path, place: str) -> None:
    Predictor(checkpoint, backend="openvino")
    [folder] = cache.iterdir()
    whole = (folder / place).read_bytes()
    (folder / place).write_bytes(whole[: len(whole) // 2])
    _check(Predictor(checkpoint, device="cpu", backend="openvino"), expected, "openvino")
    assert read_network(folder.name) is not None, "whole again; its numbered names have other lengths"


def test_key_is_of_all_that_changes_the_network(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(path: Path, shape: tuple[int, int, int] = SHAPE, *, as_2d: bool | None = None) -> str:
        network = load_network(path, as_2d=as_2d)
        return network_key(network.model, network.cfg, shape)

    first = key(checkpoint)
    assert key(checkpoint, as_2d=True) == key(checkpoint, as_2d=False) == first, "exports do not depend on it"
    payload = torch.load(checkpoint, weights_only=True)
    payload["model"]["blocks.6.proj.bias"][0] += 1e-6
    torch.save(payload, tmp_path / "weights.pt")
    pooled = save_checkpoint(small_cfg("OCTAVE.POOL_VANILLA", "True"), tmp_path / "pooled.pt")
    keys = [first, key(checkpoint, (8, 64, 80)), key(tmp_path / "weights.pt"), key(pooled)]
    assert len(set(keys)) == 4
    monkeypatch.setattr(network_cache, "_versions", lambda: "others")
    assert key(checkpoint) not in keys


def test_two_processes_convert_at_once(checkpoint: Path, cache: Path) -> None:
    code = f"import octvideo; octvideo.Predictor({str(checkpoint)!r}, backend='openvino')"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0 and error == ""
    [folder] = cache.iterdir()
    assert read_network(folder.name) is not None


def test_cache_is_bounded(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Predictor(checkpoint, backend="openvino")
    [folder] = cache.iterdir()
    model = read_network(folder.name)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for age, name in ((900, "old"), (600, "used"), (100_000, ".7.abandoned"), (60, ".8.in work")):
        (cache / name).mkdir()
        (cache / name / "network.xml").write_bytes(b" " * size)
        os.utime(cache / name, (time.time() - age,) * 2)
    os.utime(folder, (time.time() - 300,) * 2)
    monkeypatch.setattr(network_cache, "MOST_BYTES", round(2.5 * size))
    assert keep_network("new", model) == ""
    assert sorted(path.name for path in cache.iterdir()) == sorted(["new", folder.name, ".8.in work"])
    monkeypatch.setattr(network_cache, "MOST_BYTES", 1)
    assert keep_network("newest", model) == ""
    assert sorted(path.name for path in cache.iterdir()) == [".8.in work", "newest"]


def test_unwritable_cache_is_a_warning(
    checkpoint: Path, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    _check(Predictor(checkpoint, backend="openvino"), expected, "openvino")
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {cache_folder()}: the converted network cannot be kept (") and "\n" in error
    assert error.count("\n") == 1


def test_full_disk_is_a_warning(checkpoint: Path, cache: Path, small_files: None) -> None:
    assert Predictor(checkpoint, device="cpu", videos=math.inf).backend == "openvino (converted now, once)"
    assert not list(cache.iterdir())


def test_without_openvino_auto_is_torch(
    checkpoint: Path, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "openvino" else find(name))
    found = Predictor(checkpoint, device="cpu", videos=math.inf)
    _check(found, expected, "torch (OpenVINO is faster: pip install openvino)")
