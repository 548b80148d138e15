"""From files and lists to batches of frames."""

from typing import TYPE_CHECKING

from octvideo.lazy import lazy_names

if TYPE_CHECKING:
    from octvideo.data.dataset import Batch as Batch
    from octvideo.data.dataset import Failure as Failure
    from octvideo.data.dataset import TestDataset as TestDataset
    from octvideo.data.dataset import TrainDataset as TrainDataset
    from octvideo.data.dataset import VideoViews as VideoViews
    from octvideo.data.decoders.decode import open_video as open_video
    from octvideo.data.decoders.reader import DecodeError as DecodeError
    from octvideo.data.index import build_index as build_index
    from octvideo.data.index import read_index as read_index
    from octvideo.data.loaders import build_test_loader as build_test_loader
    from octvideo.data.loaders import build_train_loader as build_train_loader
    from octvideo.data.transforms import normalize_clips as normalize_clips
    from octvideo.data.video_index import VideoIndex as VideoIndex

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "dataset": "Batch Failure TestDataset TrainDataset VideoViews",
        "decoders.decode": "open_video",
        "decoders.reader": "DecodeError",
        "index": "build_index read_index",
        "loaders": "build_test_loader build_train_loader",
        "transforms": "normalize_clips",
        "video_index": "VideoIndex",
    },
)
