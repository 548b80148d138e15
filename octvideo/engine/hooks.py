"""Hooks of the training loop: logging, evaluation and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from octvideo.engine.checkpoints import BEST, Best, prune, save_checkpoint, step_path
from octvideo.engine.logging import RunLog
from octvideo.engine.trainer import StepStats, Trainer
from octvideo.errors import UserError
from octvideo.signals import Stopped

__all__ = ["Checkpointing", "Evaluation", "Logging", "Validation"]


class Logging:
    """Logs every ``every`` steps: figures, mean times and the remaining time; unreadable videos at once.

    Attributes:
        failed: paths of the videos that this run could not read.
    """

    def __init__(self, log: RunLog, every: int) -> None:
        self.log, self.every = log, every
        self.failed: set[str] = set()
        self._recent: list[StepStats] = []

    def __call__(self, trainer: Trainer, stats: StepStats) -> None:
        self._recent.append(stats)
        for failure in stats.failed:
            if failure.path not in self.failed:
                self.failed.add(failure.path)
                self.log.say(f"{failure.path}: cannot be read ({failure.reason}); another video takes its place")
        steps = trainer.settings.steps
        if trainer.step % self.every and trainer.step != steps:
            return
        data, wait, step = (
            sum(getattr(each, name) for each in self._recent) / len(self._recent)
            for name in ("data_time", "wait_time", "step_time")
        )
        self._recent.clear()
        eta = (steps - trainer.step) * step
        clips = stats.clips / step
        self.log.write(
            "train",
            step=trainer.step,
            loss=stats.loss,
            top1=stats.top1,
            lr=stats.lr,
            grad_norm=stats.grad_norm,
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
            steps,
            f"loss {stats.loss:.3f}  top-1 {stats.top1:.0f} %  lr {stats.lr:.2g}  data {data:.3f} s  "
            f"step {step:.3f} s  {clips:.1f} clips/s  ETA {tqdm.format_interval(eta)}",
        )


class Checkpointing:
    """Saves ``step_N.pt`` every ``every`` steps, at the end and when the run is stopped; keeps the newest ones.

    Args:
        folder: of the checkpoints.
        every: steps between checkpoints.
        keep: number of checkpoints to keep.
        metadata: what a checkpoint has besides the trainer's state (configuration, class names).
        record: writes the configuration next to the checkpoints.
    """

    def __init__(
        self, folder: Path, every: int, keep: int, metadata: Mapping[str, Any], record: Callable[[], None]
    ) -> None:
        self.folder, self.every, self.keep, self.metadata, self.record = folder, every, keep, metadata, record

    def __call__(self, trainer: Trainer, _: StepStats) -> None:
        if trainer.step % self.every == 0 or trainer.step == trainer.settings.steps or trainer.stop:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save a checkpoint of the present step, on the first rank."""
        if trainer.world.is_main:
            save_checkpoint({**trainer.state(), **self.metadata}, step_path(self.folder, trainer.step))
            self.record()
            prune(self.folder, trainer.step, self.keep)


class Validation(NamedTuple):
    """Figures of one evaluation: top-1 in percent, mean cross entropy, number of unreadable videos."""

    top1: float
    loss: float
    num_failed: int


class Evaluation:
    """Evaluates every ``every`` steps, saves the best network, and stops a run that no longer improves.

    If too many videos cannot be read, it stops the run and keeps the ``error``, so that the training so far gets its
    checkpoint before the error is raised. A signal also stops the run, without the result of this evaluation.

    Args:
        evaluate: returns the figures; all ranks call it.
        every: steps between evaluations.
        patience: evaluations without improvement after which it stops the run; 0 for never.
        folder: of the checkpoints, for the best network.
        log: gets the results.
        metadata: see ``Checkpointing``.

    Attributes:
        best: the best network so far.
        gave_up: whether it stopped the run because the network no longer improves.
        error: see above; None for none.
    """

    def __init__(
        self,
        evaluate: Callable[[Trainer], Validation],
        every: int,
        patience: int,
        folder: Path,
        log: RunLog,
        metadata: Mapping[str, Any],
    ) -> None:
        self.evaluate, self.every, self.patience = evaluate, every, patience
        self.folder, self.log, self.metadata = folder, log, metadata
        self.best = Best()
        self.gave_up = False
        self.error: UserError | None = None

    def __call__(self, trainer: Trainer, _: StepStats) -> None:
        if trainer.step % self.every and trainer.step != trainer.settings.steps:
            return
        try:
            found = self.evaluate(trainer)
        except UserError as error:
            self.error, trainer.stop = error, True
            return
        except Stopped:
            trainer.stop = True
            return
        trainer.parallel_model.train()
        self.log.write("val", step=trainer.step, **found._asdict())
        unreadable = f" ({found.num_failed} videos cannot be read)" if found.num_failed else ""
        self.log.say(f"step {trainer.step}: validation top-1 {found.top1:.2f} %, loss {found.loss:.3f}{unreadable}")
        now = Best(found.top1, found.loss, trainer.step)
        if now.beats(self.best):
            self.best = now
            if trainer.world.is_main:
                payload = {"model": trainer.result.state_dict(), **now._asdict()}
                save_checkpoint({**payload, **self.metadata}, self.folder / BEST)
        elif 0 < self.patience * self.every <= trainer.step - self.best.step:
            self.gave_up = trainer.stop = True
            since = f"since step {self.best.step} ({self.patience} evaluations, TRAIN.PATIENCE)"
            self.log.say(f"training stops: no improvement {since}")
