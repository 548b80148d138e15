"""Testing: all views of every video, every video once, with any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from octvideo.data import Failure, VideoViews, normalize_clips
from octvideo.data.dataset import MAX_CONSECUTIVE_FAILURES
from octvideo.engine.distributed import World
from octvideo.engine.failures import FailureBudget, all_unreadable_error
from octvideo.engine.precision import autocast
from octvideo.engine.views import average_views
from octvideo.signals import Stopped

__all__ = ["TestResult", "Tester", "score_videos"]


@torch.inference_mode()
def score_videos(
    model: Callable[[Tensor], Tensor],
    videos: Sequence[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    max_views: int,
    average: str = "softmax",
) -> list[Tensor]:
    """Return the class probabilities of each video, averaged over its views: float ``(classes,)`` on the CPU.

    Args:
        model: from clips to logits, such as a network in evaluation mode.
        videos: frames of each, ``(V, T, H, W, 3)`` uint8, all of one size.
        mean, std: of the frames' channels.
        device: of the network.
        max_views: number of views in one forward pass.
        average: see ``average_views``.
    """
    logits = [model(normalize_clips(part.to(device), mean, std)) for part in torch.cat(list(videos)).split(max_views)]
    views = torch.cat(logits).cpu().split([len(frames) for frames in videos])
    return [average_views(part, average) for part in views]


@dataclass
class TestResult:
    """What a test found, over all ranks.

    Attributes:
        scores: class probabilities ``(videos, classes)`` of the videos that were read.
        indices: their numbers ``(videos,)`` in the list.
        failed: the videos that could not be read.
    """

    __test__ = False  # not a test, whatever pytest thinks

    scores: Tensor
    indices: Tensor
    failed: list[Failure]


class Tester:
    """Scores videos with all ranks.

    Args:
        world: this process among the others.
        mean, std: of the frames' channels.
        max_views: number of views in one forward pass, of several videos where these have few.
        average: see ``average_views``.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        max_failed: share of the videos that may be unreadable.
        asked_to_stop: called before each forward pass; if it returns True on any rank, all ranks stop soon after.
        prepare: is called with the network that ``score`` gets, and returns what computes its logits.
    """

    __test__ = False  # not a test, whatever pytest thinks

    def __init__(
        self,
        world: World,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        max_views: int,
        average: str = "softmax",
        precision: str = "fp32",
        max_failed: float = 1.0,
        asked_to_stop: Callable[[], bool] = lambda: False,
        prepare: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda model: model,
    ) -> None:
        self.world, self.mean, self.std = world, mean, std
        self.max_views, self.average, self.precision = max_views, average, precision
        self.max_failed, self.asked_to_stop, self.prepare = max_failed, asked_to_stop, prepare

    def score(self, model: nn.Module, videos: Iterable[VideoViews]) -> TestResult:
        """Return the scores of all ranks' videos in the order of the list, on every rank.

        Args:
            model: is put into evaluation mode, and gets the buffers of rank 0, whose network is the one that is saved.
            videos: those of this rank.

        Raises:
            Stopped: on all ranks: one of them was asked to stop.
            UserError: on all ranks: the last ``MAX_CONSECUTIVE_FAILURES`` videos of each rank could not be read, and
                of all videos until then more than ``max_failed``.
        """
        self.world.share_buffers(model)
        run = self.prepare(model.eval())
        budget = FailureBudget(self.max_failed)
        scored: list[tuple[int, list[float]]] = []
        failed: list[Failure] = []
        consecutive, finished = 0, False
        remaining = iter(videos)
        round_size = max(MAX_CONSECUTIVE_FAILURES, self.max_views)
        while not finished:
            before = len(scored) + len(failed)
            for pack in _packs(islice(remaining, round_size), self.max_views):
                if self.asked_to_stop():
                    break
                for video in pack:
                    consecutive = 0 if video.failed is None else consecutive + 1
                failed += [video.failed for video in pack if video.failed is not None]
                scored += self._score_pack(run, pack)
            read = len(scored) + len(failed) - before
            row = [read < round_size, len(scored), len(failed), consecutive, self.asked_to_stop()]
            rows = self.world.all_gather_row(torch.zeros(0, device=self.world.device), row)
            ended, num_scored, num_failed, all_consecutive, asked = zip(*rows)
            if any(asked):
                raise Stopped
            budget.drawn, budget.failed = int(sum(num_scored) + sum(num_failed)), int(sum(num_failed))
            if min(all_consecutive) >= MAX_CONSECUTIVE_FAILURES and budget.exceeded:
                raise all_unreadable_error(self.world.gather(failed[-1])[0])
            finished = all(ended)  # a rank with fewer videos takes part until the last rank has no more
        parts = self.world.gather((scored, failed))
        scored = sorted(row for part, _ in parts for row in part)
        indices = torch.tensor([index for index, _ in scored], dtype=torch.long)
        scores = torch.tensor([row for _, row in scored]) if scored else torch.zeros(0, 1)
        return TestResult(scores, indices, sorted(failure for _, part in parts for failure in part))

    def _score_pack(
        self, model: Callable[[Tensor], Tensor], pack: Sequence[VideoViews]
    ) -> list[tuple[int, list[float]]]:
        """Return number and class probabilities of each video that could be read."""
        read = [(video.index, video.frames) for video in pack if video.frames is not None]
        if not read:
            return []
        numbers, frames = zip(*read)
        with autocast(self.world.device, self.precision):
            scores = score_videos(
                model,
                frames,
                mean=self.mean,
                std=self.std,
                device=self.world.device,
                max_views=self.max_views,
                average=self.average,
            )
        return [(number, row.tolist()) for number, row in zip(numbers, scores)]

    def check_failures(self, result: TestResult) -> None:
        """Raise UserError, on all ranks, where more than ``max_failed`` of the videos could not be read."""
        budget = FailureBudget(self.max_failed)
        budget.add(len(result.indices) + len(result.failed), len(result.failed))
        if result.failed:
            budget.check(result.failed[0])


def _packs(videos: Iterable[VideoViews], max_views: int) -> Iterator[list[VideoViews]]:
    """Yield videos in order, as many together as have at most ``max_views`` views; one that has more is alone.

    An image has one view, which does not keep a device busy.
    """
    pack: list[VideoViews] = []
    views = 0
    for video in videos:
        count = 0 if video.frames is None else len(video.frames)
        if views and views + count > max_views:
            yield pack
            pack, views = [], 0
        pack.append(video)
        views += count
    yield pack
