"""From files and lists to batches of frames."""

from octvideo.data.dataset import Batch, Failure, TestDataset, TrainDataset, VideoViews
from octvideo.data.decode import DecodeError, open_video
from octvideo.data.index import VideoIndex, build_index, read_index
from octvideo.data.loaders import build_test_loader, build_train_loader
from octvideo.data.transforms import normalize_clips

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
