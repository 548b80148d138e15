"""From files and lists to batches of frames."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octvideo.data.dataset import Batch, Failure, TestDataset, TrainDataset, VideoViews
    from octvideo.data.decoders.decode import open_video
    from octvideo.data.decoders.reader import DecodeError
    from octvideo.data.index import build_index, read_index
    from octvideo.data.loaders import build_test_loader, build_train_loader
    from octvideo.data.transforms import normalize_clips
    from octvideo.data.video_index import VideoIndex

__all__ = [
    "Batch",
    "DecodeError",
    "Failure",
    "TestDataset",
    "TrainDataset",
    "VideoIndex",
    "VideoViews",
    "build_index",
    "build_test_loader",
    "build_train_loader",
    "normalize_clips",
    "open_video",
    "read_index",
]

_HOMES = {
    "Batch": "dataset",
    "DecodeError": "decoders.reader",
    "Failure": "dataset",
    "TestDataset": "dataset",
    "TrainDataset": "dataset",
    "VideoIndex": "video_index",
    "VideoViews": "dataset",
    "build_index": "index",
    "build_test_loader": "loaders",
    "build_train_loader": "loaders",
    "normalize_clips": "transforms",
    "open_video": "decoders.decode",
    "read_index": "index",
}


def __getattr__(name: str) -> Any:
    # On demand: torch takes seconds to import, and what reads lists and annotations does without it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"octvideo.data.{_HOMES[name]}"), name)
