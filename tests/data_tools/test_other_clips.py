from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_tools.other_clips import DRAWN, Job, make, plan
from octvideo.data import open_video


@pytest.fixture(scope="module")
def clips(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The frames of a clip of each kind."""
    folder = tmp_path_factory.mktemp("other")
    jobs = plan(
        [(data / "fight_surveillance/fight/fi001.mp4", "camera")] * 3,
        [(data / f"weizmann/walk/{name}_walk.avi", name) for name in ("ido", "ira", "lena", "eli")],
    )
    frames = {}
    for job in {job.kind: job for job in jobs}.values():
        with open_video(str(make(job, folder))) as video:
            frames[job.kind] = video.frames(range(len(video)))
    return frames


def test_plan_uses_every_video() -> None:
    others, known = [(Path("a.mp4"), "a")] * 7, [(Path("b.avi"), "b")] * 9
    jobs = plan(others, known)
    assert [job.seed for job in jobs] == list(range(len(jobs)))
    assert Counter(job.kind for job in jobs if job.source == "a") == {"plain": 3, "altered": 2, "still": 2}
    assert {job.kind: job.source for job in jobs if job.source != "a"} == dict.fromkeys(
        ("frozen", "turned", "shuffled", "empty"), "b"
    ) | {"rendered": "", "shapes": ""}
    assert sum(job.kind == "shapes" for job in jobs) == DRAWN


def test_clips_are_long_enough_and_small(clips: dict[str, np.ndarray]) -> None:
    assert set(clips) == {
        "plain", "altered", "still", "frozen", "turned", "shuffled", "empty", "rendered", "shapes"
    }  # fmt: skip
    for kind, frames in clips.items():
        assert 29 <= len(frames) <= 64, kind
        assert 100 <= min(frames.shape[1:3]) <= 128 and frames.std() > 1, kind


def test_frozen_clip_does_not_move(clips: dict[str, np.ndarray]) -> None:
    motion = {kind: np.abs(np.diff(frames[::4].astype(int), axis=0)).mean() for kind, frames in clips.items()}
    assert motion["frozen"] < 0.6 < min(motion["turned"], motion["rendered"], motion["shapes"])


def test_same_seed_draws_same_frames(data: Path, tmp_path: Path) -> None:
    job = Job("altered", "camera", 5, data / "fight_surveillance/fight/fi001.mp4")
    frames = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with open_video(str(make(job, tmp_path / name))) as video:
            frames.append(video.frames(range(10)))
    assert np.abs(frames[0].astype(int) - frames[1]).mean() < 1
