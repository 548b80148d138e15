"""The training loop; what is optional is a hook."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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
from octvideo.engine.metrics import top_k_accuracy
from octvideo.errors import UserError

__all__ = ["Hook", "Trainer", "autocast"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Hook = Callable[["Trainer"], None]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to ``"bf16"`` or ``"fp16"``; nothing for ``"fp32"``."""
    return torch.autocast(device.type, _DTYPES[precision]) if precision in _DTYPES else nullcontext()


class Trainer:
    """Takes a network from one step to the last.

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
        hooks: called after every step.

    Attributes:
        step: steps done.
        drawn, failed: videos of all ranks so far.
        last: figures of the last step.
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
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.steps, self.world, self.mean, self.std = steps, world, mean, std
        self.precision, self.accumulate, self.clip_grad_norm = precision, accumulate, clip_grad_norm
        self.label_smoothing, self.max_failed = label_smoothing, max_failed
        self.augment, self.mix = augment or Augmentation(), mix
        self.path_of, self.seed = path_of, seed
        self.hooks = hooks
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")
        self.wrapped = self._distribute() if world.size > 1 else model
        self.average = weight_average(model, ema) if ema else None
        self.step = 0
        self.drawn = self.failed = 0
        self.last: dict[str, Any] = {}
        self.stop = False

    def _distribute(self) -> nn.Module:
        cuda = self.world.device.type == "cuda"
        return DistributedDataParallel(self.model, device_ids=[self.world.device] if cuda else None)

    def train(self, batches: Iterator[Batch]) -> None:
        """Runs to the last step, or until ``stop``; ``batches`` must begin at ``self.step``.

        Raises:
            UserError: the loss or the gradient is not finite, or too many videos cannot be read.
        """
        self.wrapped.train()
        while self.step < self.steps and not self.stop:
            start = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            self._update(batch)
            self.step += 1
            # The ranks have just waited for each other's gradients, so this costs no waiting.
            failed = self._count_failures(batch)
            end = time.perf_counter()
            self.last.update(data_time=loaded - start, step_time=end - start, failed=failed)
            for hook in self.hooks:
                hook(self)

    def _update(self, batch: Batch) -> None:
        """One optimiser step on one batch."""
        torch.manual_seed(self.seed + 7919 * self.step + self.world.rank)
        lr = self.schedule(self.step / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        count, done, loss, scores, labels = len(batch.labels), 0, 0.0, [], []
        for clips, targets in self._parts(batch):
            done += len(clips)
            with self._synchronised(done == count):
                part_loss, logits = self._forward(clips, targets)
                self.scaler.scale(part_loss * (len(clips) / count)).backward()
            loss += float(part_loss.detach()) * len(clips) / count
            scores.append(logits.detach().float().cpu())
            labels.append((targets if targets.dim() == 1 else targets.argmax(1)).cpu())
        top1 = top_k_accuracy(torch.cat(scores), torch.cat(labels), 1)
        self.last = {"lr": lr, "loss": loss, "top1": top1, "clips": count}
        # The ranks must agree to stop, or the others would wait for this one for ever.
        if self.world.any(not math.isfinite(loss)):
            self._give_up(batch, f"the loss is {loss}", lr)
        self.last["grad_norm"] = norm = self._clip()
        # The norm is of the averaged gradients, so all ranks see the same one. GradScaler skips such a step by itself.
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._give_up(batch, f"the gradient norm is {norm}", lr)
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
            targets = labels.to(self.world.device, non_blocking=True)
            if self.mix is None:
                yield clips, targets
            else:
                clips, targets = self.mix(clips, targets, seed_of(self.seed, self.step, self.world.rank))
                yield from zip(clips.chunk(self.accumulate), targets.chunk(self.accumulate))

    def _forward(self, clips: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.world.device, self.precision):
            logits = self.wrapped(clips)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing), logits

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return nullcontext()

    def _clip(self) -> float:
        self.scaler.unscale_(self.optimizer)
        limit = self.clip_grad_norm or math.inf
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True))

    def _give_up(self, batch: Batch, what: str, lr: float) -> None:
        videos = ", ".join(self.path_of(index) for index in batch.indices.tolist())
        raise UserError(
            f"step {self.step + 1}: {what} at learning rate {lr:.3g}: lower SOLVER.BASE_LR, or set "
            f"TRAIN.CLIP_GRAD_NORM; the videos of the step: {videos}"
        )

    def _count_failures(self, batch: Batch) -> list[Failure]:
        """The step's failures of all ranks, which count them together: so all of them stop, or none."""
        drawn, failed = self.world.sum(len(batch.labels) + len(batch.failed), len(batch.failed))
        self.drawn += drawn
        self.failed += failed
        if not failed:
            return []
        failures = [failure for part in self.world.gather(batch.failed) for failure in part]
        if self.failed > max(10, self.max_failed * self.drawn):
            raise UserError(
                f"{self.failed} of {self.drawn} drawn videos cannot be read, more than DATA.MAX_FAILED "
                f"({self.max_failed}) allows; the last: {failures[-1].path}: {failures[-1].reason}"
            )
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
            "drawn": self.drawn,
            "failed": self.failed,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes back to a ``state``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and "average" in state:
            self.average.load_state_dict(state["average"])
        elif self.average is not None:  # switched on since: it begins here
            self.average.module.load_state_dict(state["model"])
        self.step, self.drawn, self.failed = state["step"], state["drawn"], state["failed"]
