"""The training loop; optional parts are hooks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.param_scheduler import ParamScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from octvideo.data import Batch, Failure
from octvideo.data.dataset import UNREADABLE
from octvideo.data.seeds import seed_of
from octvideo.engine.averaging import weight_average
from octvideo.engine.distributed import World
from octvideo.engine.failures import FailureBudget, all_unreadable_error
from octvideo.engine.precision import autocast
from octvideo.engine.preparation import ClipPreparation
from octvideo.engine.teacher import Teacher
from octvideo.errors import UserError

__all__ = ["Hook", "StepStats", "TrainSettings", "Trainer"]

_FAILURES_ALWAYS_ALLOWED = 10  # one broken video is a large share of the first few that are drawn


@dataclass(frozen=True)
class TrainSettings:
    """How the steps are taken.

    Attributes:
        steps: number of the last step.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        accumulate: number of parts that a rank's batch is split into.
        clip_grad_norm: largest norm of the gradient; 0 for no limit.
        label_smoothing: of the loss.
        ema: decay of the moving average of the weights; 0 for none.
        max_failed: share of the videos drawn by all ranks that may be unreadable.
        seed: of the random numbers (dropout, mixing). Each step has its own, so a resumed run draws the same.
    """

    steps: int
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad_norm: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    max_failed: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class StepStats:
    """Figures of one step: those of all ranks together, but the times are this rank's.

    Attributes:
        lr: learning rate.
        loss, top1: mean loss, and accuracy in percent (of the heavier label where clips are mixed; agreement with the
            teacher where labels are not used).
        grad_norm: norm of the gradient before clipping.
        clips: number of clips.
        failed: videos that could not be read.
        data_time: seconds until this rank had its batch.
        wait_time: seconds that the last rank took longer for its own, counted from the exchange of the step before.
        step_time: seconds of the whole step with both of these, without the hooks.
    """

    lr: float
    loss: float
    top1: float
    grad_norm: float
    clips: int
    failed: list[Failure]
    data_time: float
    wait_time: float
    step_time: float


Hook = Callable[["Trainer", StepStats], None]


class _RankFigures(NamedTuple):
    """What a rank sends to the others in a step, as one vector; ``loss`` and ``correct`` are sums over its clips.

    ``unreplaced`` counts clips for which no video could be read, ``ready`` is when the rank had its batch (seconds
    since the last exchange), ``stop`` whether it was asked to stop.
    """

    loss: float
    correct: float
    grad_norm: float
    clips: float
    failed: float
    unreplaced: float
    ready: float
    stop: float


class Trainer:
    """Takes a network from one step to the last.

    The host waits for the device once a step, for the step's figures. The ranks exchange them there, in one vector
    each, before the weights change. So all ranks stop together, and a loss or gradient that is not finite never
    reaches the weights ::

        next batch | forward, backward (gradients) | exchange of figures | weights | hooks
                   ^ ready

    Args:
        model: the network, on its device.
        optimizer, schedule: the schedule gives the learning rate at a progress in [0, 1).
        preparation: makes the network's inputs from a batch.
        settings: how the steps are taken.
        world: this process among the others.
        path_of: returns the path of a video of the training list, for error messages.
        asked_to_stop: called in every step; if it returns True on any rank, all ranks stop after that step.
        hooks: called after every step with the trainer and the step's figures.
        teacher: a network to learn from, in addition to the labels or without them; None for the labels alone.

    Attributes:
        step: number of steps done.
        budget: the unreadable videos of all ranks so far.
        stop: set it to stop after the current step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: ParamScheduler,
        preparation: ClipPreparation,
        settings: TrainSettings,
        *,
        world: World,
        path_of: Callable[[int], str] = str,
        asked_to_stop: Callable[[], bool] = lambda: False,
        hooks: Sequence[Hook] = (),
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.preparation, self.settings, self.world = preparation, settings, world
        self.path_of, self.asked_to_stop, self.hooks = path_of, asked_to_stop, hooks
        self.teacher = teacher
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision == "fp16")
        self.parallel_model = _distribute(model, world.device) if world.size > 1 else model
        self.average = weight_average(model, settings.ema) if settings.ema else None
        self.budget = FailureBudget(settings.max_failed, _FAILURES_ALWAYS_ALLOWED)
        self.step = 0
        self.stop = False

    def train(self, batches: Iterator[Batch]) -> None:
        """Take steps to the last one, or until ``stop``; ``batches`` must start at ``self.step``.

        Raises:
            UserError: the loss or the gradient is not finite, too many videos cannot be read, or batch norm has only
                one value per channel.
        """
        self.parallel_model.train()
        exchanged = time.perf_counter()
        while self.step < self.settings.steps and not self.stop:
            start = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()

            lr = self._begin_step()
            loss, correct = self._accumulate_gradients(batch)
            grad_norm = self._clip_gradients()
            ranks = self._exchange(batch, loss, correct, grad_norm, ready - exchanged)
            exchanged = time.perf_counter()
            failed = self._count_failures(batch, ranks)
            mean_loss = self._check_finite(batch, ranks, lr)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update_parameters(self.model)

            self.step += 1
            self.stop = self.stop or any(rank.stop for rank in ranks)
            clips = sum(rank.clips for rank in ranks)
            stats = StepStats(
                lr=lr,
                loss=mean_loss,
                top1=100 * sum(rank.correct for rank in ranks) / clips,
                grad_norm=ranks[0].grad_norm,
                clips=int(clips),
                failed=failed,
                data_time=ready - start,
                wait_time=max(rank.ready for rank in ranks) - ranks[self.world.rank].ready,
                step_time=time.perf_counter() - start,
            )
            for hook in self.hooks:
                hook(self, stats)

    def _begin_step(self) -> float:
        """Seed the step's random numbers, clear the gradients, and set and return the learning rate."""
        torch.manual_seed(self.settings.seed + 7919 * self.step + self.world.rank)
        lr = self.schedule(self.step / self.settings.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        return lr

    def _accumulate_gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the batch forward and backward; return the sums of loss and correct answers, on the device."""
        device, settings = self.world.device, self.settings
        count, done = len(batch.labels), 0
        loss, correct = torch.zeros(2, device=device)
        mix_seed = seed_of(settings.seed, self.step, self.world.rank)
        for clips, targets in self.preparation.parts(batch, settings.accumulate, device, mix_seed):
            done += len(clips)
            with self._gradient_exchange(done == count):
                part_loss, logits, targets = self._forward(clips, targets)
                self.scaler.scale(part_loss * (len(clips) / count)).backward()
            loss += part_loss.detach() * len(clips)
            labels = targets if targets.dim() == 1 else targets.argmax(1)
            correct += (logits.detach().argmax(1) == labels).sum()
        return loss, correct

    def _gradient_exchange(self, is_last_part: bool) -> AbstractContextManager[Any]:
        """The ranks average their gradients once, with the last part of the batch."""
        if isinstance(self.parallel_model, DistributedDataParallel) and not is_last_part:
            return self.parallel_model.no_sync()
        return nullcontext()

    def _forward(self, clips: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean loss, logits ``(n, classes)``, and the targets, or in their place a teacher's logits."""
        try:
            with autocast(self.world.device, self.settings.precision):
                logits = self.parallel_model(clips).float()
                answers = None if self.teacher is None else self.teacher(clips)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"batch norm has one value per channel in clips {tuple(clips.shape)}: set a larger TRAIN.BATCH_SIZE, "
                "DATA.TRAIN_CROP or DATA.NUM_FRAMES, or a smaller TRAIN.ACCUMULATE"
            ) from None
        loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
        if self.teacher is None or answers is None:
            return loss, logits, targets
        loss = torch.lerp(loss, self.teacher.loss(logits, answers), self.teacher.weight)
        return loss, logits, answers if self.teacher.weight == 1 else targets

    def _clip_gradients(self) -> Tensor:
        """Return the gradient norm before clipping, on the device. The ranks have averaged their gradients before."""
        self.scaler.unscale_(self.optimizer)
        if self.settings.clip_grad_norm:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        # The same function without a limit would multiply all gradients by one.
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def _exchange(
        self, batch: Batch, loss: Tensor, correct: Tensor, grad_norm: Tensor, ready: float
    ) -> list[_RankFigures]:
        """Return the figures of all ranks, which wait for each other and for the device here."""
        unreplaced = int((batch.labels == UNREADABLE).sum())
        on_host = [len(batch.labels), len(batch.failed), unreplaced, ready, float(self.asked_to_stop())]
        on_device = torch.stack([loss, correct, grad_norm.to(loss)])
        return [_RankFigures(*row) for row in self.world.all_gather_row(on_device, on_host)]

    def _count_failures(self, batch: Batch, ranks: Sequence[_RankFigures]) -> list[Failure]:
        """Return the step's unreadable videos of all ranks, which stop together where there are too many."""
        failed = int(sum(rank.failed for rank in ranks))
        self.budget.add(int(sum(rank.clips for rank in ranks)) + failed, failed)
        if not failed:
            return []
        parts = self.world.gather(batch.failed)
        for part, rank in zip(parts, ranks, strict=True):
            if rank.unreplaced:  # a black clip must not be trained on
                raise all_unreadable_error(part[-1])
        failures = [failure for part in parts for failure in part]
        self.budget.check(failures[-1])
        return failures

    def _check_finite(self, batch: Batch, ranks: Sequence[_RankFigures], lr: float) -> float:
        """Return the mean loss of all ranks, or raise UserError where it or the gradient is not finite."""
        loss = sum(rank.loss for rank in ranks) / sum(rank.clips for rank in ranks)
        grad_norm = ranks[0].grad_norm
        if not math.isfinite(loss):
            problem, affected = f"the loss is {loss}", [not math.isfinite(rank.loss) for rank in ranks]
        elif not math.isfinite(grad_norm) and not self.scaler.is_enabled():  # GradScaler skips such a step
            problem, affected = f"the gradient norm is {grad_norm}", [True] * len(ranks)
        else:
            return loss
        parts = self.world.gather(batch.indices.tolist())
        indices = [index for part, is_affected in zip(parts, affected, strict=True) if is_affected for index in part]
        raise UserError(
            f"step {self.step + 1}: {problem} at learning rate {lr:.3g}: lower SOLVER.BASE_LR, or set "
            f"TRAIN.CLIP_GRAD_NORM; the videos of the step: {', '.join(map(self.path_of, indices))}"
        )

    @property
    def result(self) -> nn.Module:
        """The trained network: the averaged one where there is an average."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs to resume exactly here."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            **average,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "drawn": self.budget.drawn,
            "failed": self.budget.failed,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a ``state``; the optimiser keeps its present settings, such as the weight decay."""
        self.model.load_state_dict(state["model"])
        present = [{**group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, present):
            group.update(settings)
        if state["scaler"]:  # else fp16 was switched on since: the scale starts here
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])
        elif self.average is not None:  # switched on since: it starts here
            self.average.module.load_state_dict(state["model"])
        self.step, self.budget.drawn, self.budget.failed = state["step"], state["drawn"], state["failed"]


def _distribute(model: nn.Module, device: torch.device) -> nn.Module:
    # The gradient of a 1x1x1 kernel has other strides than the kernel; both mean the same order in memory.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
