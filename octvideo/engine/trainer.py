"""The training loop; what is optional is a hook."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.param_scheduler import ParamScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from octvideo.data import Batch, Failure, normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing
from octvideo.data.seeds import seed_of
from octvideo.engine.averaging import weight_average
from octvideo.engine.distributed import World
from octvideo.engine.failures import FailureBudget, all_unreadable_error
from octvideo.errors import UserError

__all__ = ["Hook", "Trainer", "autocast"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Hook = Callable[["Trainer"], None]
_FAILURES_ALWAYS_ALLOWED = 10  # one broken video is a large share of the first few that are drawn


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to ``"bf16"`` or ``"fp16"``; nothing for ``"fp32"``."""
    return torch.autocast(device.type, _DTYPES[precision]) if precision in _DTYPES else nullcontext()


class _Figures(NamedTuple):
    """What a rank tells the others about its part of a step, as one vector; loss and right answers are sums."""

    loss: float
    right: float
    grad_norm: float
    clips: float
    failed: float
    unread: float
    ready: float
    stop: float


class Trainer:
    """Takes a network from one step to the last.

    The host waits for the device once a step: for the figures of the step. There the ranks exchange them too, in one
    vector each, and before the weights change; so they stop together, and no weight sees a loss or a gradient that is
    not finite ::

        next batch | forward, backward (gradients) | figures | weights | hooks
                   ^ ready

    Args:
        model: the network, on its device.
        optimizer, schedule: the schedule is asked with the progress in [0, 1).
        steps: the last step's number.
        world: this process among the others.
        mean, std: of the frames.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        accumulate: parts that a rank's batch is split into.
        clip_grad_norm: 0 for none.
        label_smoothing: of the loss.
        augment: what becomes of each clip on the device; None for nothing.
        mix: mixes the clips of this rank's batch; None for none. Accuracy is then that of the heavier label.
        max_failed: share of the videos drawn by all ranks that may be unreadable.
        path_of: the path of a video of the training list, for messages.
        seed: of the random numbers of a step (dropout, mixing); each has its own, so a resumed run draws the same.
        ema: decay of the moving average of the weights; 0 for none.
        asked_to_stop: asked in every step; where the answer is yes on any rank, all end after that step.
        hooks: called after every step.

    Attributes:
        step: steps done.
        budget: the unreadable videos of all ranks so far.
        last: figures of the last step: of all ranks together, but the times, in seconds, are this rank's. ``data_time``
            is the wait for the batch, ``wait_time`` how much later the last rank had its own, by the time since the
            ranks met in the step before; ``step_time`` has both in it, and nothing of the hooks.
        stop: set it to end after the current step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: ParamScheduler,
        *,
        steps: int,
        world: World,
        mean: Sequence[float],
        std: Sequence[float],
        precision: str = "fp32",
        accumulate: int = 1,
        clip_grad_norm: float = 0.0,
        label_smoothing: float = 0.0,
        augment: Augmentation | None = None,
        mix: Mixing | None = None,
        max_failed: float = 0.1,
        path_of: Callable[[int], str] = str,
        seed: int = 0,
        ema: float = 0.0,
        asked_to_stop: Callable[[], bool] = lambda: False,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.steps, self.world, self.mean, self.std = steps, world, mean, std
        self.precision, self.accumulate, self.clip_grad_norm = precision, accumulate, clip_grad_norm
        self.label_smoothing = label_smoothing
        self.budget = FailureBudget(max_failed, _FAILURES_ALWAYS_ALLOWED)
        self.augment, self.mix = augment or Augmentation(), mix
        self.path_of, self.seed = path_of, seed
        self.asked_to_stop, self.hooks = asked_to_stop, hooks
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")
        self.wrapped = self._distribute() if world.size > 1 else model
        self.average = weight_average(model, ema) if ema else None
        self.step = 0
        self.last: dict[str, Any] = {}
        self.stop = False

    def _distribute(self) -> nn.Module:
        cuda = self.world.device.type == "cuda"
        return DistributedDataParallel(self.model, device_ids=[self.world.device] if cuda else None)

    def train(self, batches: Iterator[Batch]) -> None:
        """Runs to the last step, or until ``stop``; ``batches`` must begin at ``self.step``.

        Raises:
            UserError: the loss or the gradient is not finite, too many videos cannot be read, or batch
                norm has one value a channel.
        """
        self.wrapped.train()
        self._met = time.perf_counter()
        while self.step < self.steps and not self.stop:
            start = time.perf_counter()
            batch = next(batches)
            data_time = time.perf_counter() - start
            self._update(batch, time.perf_counter() - self._met)
            self.step += 1
            self.last.update(data_time=data_time, step_time=time.perf_counter() - start)
            for hook in self.hooks:
                hook(self)

    def _update(self, batch: Batch, ready: float) -> None:
        """One optimiser step on one batch, which was there ``ready`` seconds after the ranks had met."""
        torch.manual_seed(self.seed + 7919 * self.step + self.world.rank)
        lr = self.schedule(self.step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        count, done = len(batch.labels), 0
        loss, right = torch.zeros(2, device=self.world.device)
        for clips, targets in self._parts(batch):
            done += len(clips)
            with self._synchronised(done == count):
                part_loss, logits = self._forward(clips, targets)
                self.scaler.scale(part_loss * (len(clips) / count)).backward()
            loss += part_loss.detach() * len(clips)
            labels = targets if targets.dim() == 1 else targets.argmax(1)
            right += (logits.detach().argmax(1) == labels).sum()
        norm = self._clip()
        self._agree(batch, torch.stack([loss, right, norm.to(loss)]), ready, lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """The batch in ``accumulate`` parts on the device: clips ``(n, 3, T, H, W)``, labels ``(n,)`` or targets."""
        # Mixing pairs clips of different parts, so then the whole batch is prepared at once.
        pieces = [part.chunk(1 if self.mix else self.accumulate) for part in (batch.frames, batch.labels, batch.seeds)]
        for frames, labels, seeds in zip(*pieces, strict=True):
            frames = self.augment.frames(frames.to(self.world.device, non_blocking=True), seeds)
            clips = self.augment.clips(normalize_clips(frames, self.mean, self.std), seeds)
            targets = labels.clamp(min=0).to(
                self.world.device, non_blocking=True
            )  # of those not read; they end the step
            if self.mix is None:
                yield clips, targets
            else:
                clips, targets = self.mix(clips, targets, seed_of(self.seed, self.step, self.world.rank))
                yield from zip(clips.chunk(self.accumulate), targets.chunk(self.accumulate))

    def _forward(self, clips: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        try:
            with autocast(self.world.device, self.precision):
                logits = self.wrapped(clips)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"batch norm has one value a channel in clips {tuple(clips.shape)}: set a larger TRAIN.BATCH_SIZE, "
                "DATA.TRAIN_CROP or DATA.NUM_FRAMES, or a smaller TRAIN.ACCUMULATE"
            ) from None
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing), logits

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return nullcontext()

    def _clip(self) -> Tensor:
        """The norm of the gradients as it was, on the device; they are averaged over the ranks, so all see the same."""
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad_norm:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm, foreach=True)
        # The same without a limit would multiply all gradients by one.
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def _agree(self, batch: Batch, sums: Tensor, ready: float, lr: float) -> None:
        """Sets ``last`` from the figures of all ranks, which stop here together where one of them has to.

        Raises:
            UserError: as ``train``.
        """
        count = len(batch.labels)
        unread = int((batch.labels < 0).sum())
        known = [count, len(batch.failed), unread, ready, float(self.asked_to_stop())]
        ranks = [_Figures(*row) for row in self.world.rows(sums, known)]
        self._met = time.perf_counter()
        clips, failed = (int(sum(count)) for count in zip(*((rank.clips, rank.failed) for rank in ranks)))
        self.budget.add(clips + failed, failed)
        failures = self._failures(batch, ranks) if failed else []
        loss = sum(rank.loss for rank in ranks) / clips
        if not math.isfinite(loss):
            self._give_up(batch, [not math.isfinite(rank.loss) for rank in ranks], f"the loss is {loss}", lr)
        # GradScaler skips such a step by itself.
        if not math.isfinite(norm := ranks[0].grad_norm) and not self.scaler.is_enabled():
            self._give_up(batch, [True] * len(ranks), f"the gradient norm is {norm}", lr)
        self.last = {
            "lr": lr,
            "loss": loss,
            "top1": 100 * sum(rank.right for rank in ranks) / clips,
            "grad_norm": norm,
            "clips": clips,
            "wait_time": max(rank.ready for rank in ranks) - ready,
            "failed": failures,
        }
        self.stop = self.stop or any(rank.stop for rank in ranks)

    def _give_up(self, batch: Batch, concerned: Sequence[bool], what: str, lr: float) -> None:
        """Ends the run for the part of the batch that the concerned ranks have."""
        parts = self.world.gather(batch.indices.tolist())
        indices = [index for part, ours in zip(parts, concerned, strict=True) if ours for index in part]
        raise UserError(
            f"step {self.step + 1}: {what} at learning rate {lr:.3g}: lower SOLVER.BASE_LR, or set "
            f"TRAIN.CLIP_GRAD_NORM; the videos of the step: {', '.join(map(self.path_of, indices))}"
        )

    def _failures(self, batch: Batch, ranks: Sequence[_Figures]) -> list[Failure]:
        """The step's unreadable videos of all ranks, which stop together where they are too many."""
        parts = self.world.gather(batch.failed)
        for part, rank in zip(parts, ranks, strict=True):
            if rank.unread:  # a clip is black because no video could be read for it
                raise all_unreadable_error(part[-1])
        failures = [failure for part in parts for failure in part]
        self.budget.check(failures[-1])
        return failures

    @property
    def result(self) -> nn.Module:
        """What the training is for: the averaged network where there is one."""
        return self.model if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly here."""
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
        """Goes back to a ``state``; the optimiser keeps its own settings, such as the weight decay."""
        self.model.load_state_dict(state["model"])
        own = [{**group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own):
            group.update(settings)
        if state["scaler"]:  # else fp16 was switched on since: the scale begins here
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])
        elif self.average is not None:  # switched on since: it begins here
            self.average.module.load_state_dict(state["model"])
        self.step, self.budget.drawn, self.budget.failed = state["step"], state["drawn"], state["failed"]
