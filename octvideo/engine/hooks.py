"""What happens beside the steps: logging, checkpoints, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from octvideo.engine.checkpoints import prune, save_checkpoint, step_path
from octvideo.engine.logging import RunLog
from octvideo.engine.trainer import Trainer
from octvideo.errors import UserError
from octvideo.signals import Stopped

__all__ = ["Checkpointing", "Evaluation", "Logging"]


class Logging:
    """Every ``every`` steps: a line of JSON, TensorBoard, progress with times and the time that is left."""

    def __init__(self, log: RunLog, every: int) -> None:
        self.log, self.every = log, every
        self._data = self._wait = self._total = 0.0
        self._steps = 0
        self.failed: set[str] = set()  # paths that this run could not read

    def __call__(self, trainer: Trainer) -> None:
        last = trainer.last
        self._data += last["data_time"]
        self._wait += last["wait_time"]
        self._total += last["step_time"]
        self._steps += 1
        for failure in last["failed"]:
            if failure.path not in self.failed:
                self.failed.add(failure.path)
                self.log.say(f"{failure.path}: cannot be read ({failure.reason}); another video takes its place")
        if trainer.step % self.every and trainer.step != trainer.steps:
            return
        data, wait, step = (total / self._steps for total in (self._data, self._wait, self._total))
        eta = (trainer.steps - trainer.step) * step
        clips = last["clips"] / step
        self.log.write(
            "train",
            step=trainer.step,
            loss=last["loss"],
            top1=last["top1"],
            lr=last["lr"],
            grad_norm=last["grad_norm"],
            data_time=data,
            wait_time=wait,
            compute_time=step - data - wait,
            step_time=step,
            clips_per_second=clips,
            eta_seconds=eta,
            failed=trainer.budget.failed,
            peak_memory_mb=trainer.world.peak_memory_mb(),
        )
        self.log.progress(
            "train",
            trainer.step,
            trainer.steps,
            f"loss {last['loss']:.3f}  lr {last['lr']:.2g}  data {data:.3f} s  step {step:.3f} s  "
            f"{clips:.1f} clips/s  ETA {tqdm.format_interval(eta)}",
        )
        self._data = self._wait = self._total = 0.0
        self._steps = 0


class Checkpointing:
    """Every ``every`` steps, at the end and when the run is stopped: ``step_N.pt``, the newest ``keep`` of them.

    Args:
        folder: of the checkpoints.
        every, keep: how often, how many.
        extra: what goes in beside the trainer's state (configuration, class names).
        record: writes the configuration next to the checkpoint.
    """

    def __init__(self, folder: Path, every: int, keep: int, extra: dict[str, Any], record: Callable[[], None]) -> None:
        self.folder, self.every, self.keep, self.extra, self.record = folder, every, keep, extra, record

    def __call__(self, trainer: Trainer) -> None:
        if not trainer.world.is_main:
            return
        if trainer.step % self.every == 0 or trainer.step == trainer.steps or trainer.stop:
            save_checkpoint({**trainer.state(), **self.extra}, step_path(self.folder, trainer.step))
            self.record()
            prune(self.folder, trainer.step, self.keep)


class Evaluation:
    """Every ``every`` steps: evaluates, and keeps the best network as ``best.pt``.

    Where the videos are at fault the run stops: ``error`` says why, and the training so far gets its checkpoint. So it
    does where a signal ends the evaluation, which is left out then.

    Args:
        evaluate: gives top-1 in percent and the number of unreadable videos; every rank calls it.
        every: how often.
        path: of the best checkpoint.
        extra: as in ``Checkpointing``.
    """

    def __init__(
        self, evaluate: Callable[[], tuple[float, int]], every: int, path: Path, log: RunLog, extra: dict[str, Any]
    ) -> None:
        self.evaluate, self.every, self.path, self.log, self.extra = evaluate, every, path, log, extra
        self.best = -1.0
        self.error: UserError | None = None

    def __call__(self, trainer: Trainer) -> None:
        if trainer.step % self.every and trainer.step != trainer.steps:
            return
        try:
            top1, failed = self.evaluate()
        except UserError as error:
            self.error, trainer.stop = error, True
            return
        except Stopped:
            trainer.stop = True
            return
        trainer.wrapped.train()
        self.log.write("val", step=trainer.step, top1=top1, num_failed=failed)
        unread = f" ({failed} videos cannot be read)" if failed else ""
        self.log.say(f"step {trainer.step}: validation top-1 {top1:.2f} %{unread}")
        if top1 > self.best:
            self.best = top1
            if trainer.world.is_main:
                payload = {"model": trainer.result.state_dict(), "step": trainer.step, "top1": top1}
                save_checkpoint({**payload, **self.extra}, self.path)
