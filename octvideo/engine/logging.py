"""The log of a run: JSON lines, TensorBoard, W&B, and progress on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from octvideo.errors import UserError
from octvideo.progress import Progress

__all__ = ["RunLog"]


class RunLog:
    """The log of one run, silent on all ranks but the first; a context manager.

    Nothing is written until ``start``, so a command that is refused, or has nothing to do, does not change the folder.
    Earlier lines are kept for the files.

    Args:
        folder: gets ``log.jsonl`` and ``tensorboard/``; None for a rank that does not write.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._pending: list[str] = []
        self._file: IO[str] | None = None
        self._board: Any = None
        self._wandb: Any = None
        self._progress: Progress | None = None

    def start(self, wandb: str = "", config: dict[str, Any] | None = None) -> None:
        """Make the folder and open the files, unless they are open.

        Args:
            wandb: a project of Weights & Biases, or "". Each start is a new run there, in a group named as the folder.
            config: what W&B shows as the run's configuration.

        Raises:
            UserError: the folder cannot be written; W&B is not installed, or does not start.
        """
        if self._folder is None or self._file is not None:
            return
        from torch.utils.tensorboard import SummaryWriter

        if wandb:
            _check_wandb(wandb)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _end_line(self._folder / "log.jsonl")
            self._file = (self._folder / "log.jsonl").open("a", buffering=1, encoding="utf-8")
            self._file.writelines(self._pending)
            self._board = SummaryWriter(str(self._folder / "tensorboard"))
        except OSError as error:
            raise UserError(
                f"OUTPUT_DIR {self._folder}: cannot be written ({error.strerror}); choose another one"
            ) from None
        if wandb:
            self._wandb = _start_wandb(wandb, self._folder, config)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end_progress()
        try:
            if self._file is not None:
                try:
                    self._file.close()
                finally:
                    if self._board is not None:
                        self._board.close()
        except OSError:
            if kind is None:  # else the cause of the end is shown, not this consequence
                raise
        finally:
            if self._wandb is not None:
                self._wandb.finish()

    def say(self, message: str) -> None:
        """Print a line for people on stderr, and log it."""
        if self._folder is not None:
            tqdm.write(message, file=sys.stderr)  # first, in case the log cannot be written any more
            self.write("info", message=message)

    def write(self, kind: str, **values: Any) -> None:
        """Write a line of ``log.jsonl``; with a ``step``, numbers also go to TensorBoard and W&B."""
        if self._folder is None:
            return
        # NaN and Infinity are not JSON. With fp16 the gradient norm is infinite in the steps that GradScaler skips.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = json.dumps({"kind": kind, "time": round(time.time(), 3), **finite}) + "\n"
        if self._file is None:
            self._pending.append(line)
            return
        self._file.write(line)
        if "step" in values:
            numbers = {f"{kind}/{k}": v for k, v in values.items() if k != "step" and isinstance(v, int | float)}
            for name, value in numbers.items():
                self._board.add_scalar(name, value, values["step"])
            if self._wandb is not None:
                self._wandb.log({"step": values["step"], **numbers})

    def progress(self, what: str, done: int, total: int, text: str, *, every: int = 1) -> None:
        """Show progress; see ``octvideo.progress.Progress``."""
        if self._folder is None:
            return
        self._progress = self._progress or Progress(what, total, every=every)
        self._progress.update(done, text)

    def end_progress(self) -> None:
        """Close the progress bar."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def _end_line(path: Path) -> None:
    """End the last line if a full disk or a kill has cut it, so that the next line starts on a new one."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")


def _check_wandb(project: str) -> None:
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError(f"TRAIN.WANDB is {project}, but wandb is not installed: pip install wandb") from None


def _start_wandb(project: str, folder: Path, config: dict[str, Any] | None) -> Any:
    import wandb

    try:
        run = wandb.init(project=project, group=folder.name, dir=folder, config=config)
    except wandb.Error as error:
        raise UserError(f"TRAIN.WANDB {project}: {str(error).splitlines()[0]}; fix it, or set TRAIN.WANDB ''") from None
    run.define_metric("*", step_metric="step")
    return run
