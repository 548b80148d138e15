"""What a run works with besides its configuration: folder, processes, lock, log and signals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from octvideo.engine.distributed import World, distributed
from octvideo.engine.lock import RunLock
from octvideo.engine.logging import RunLog
from octvideo.errors import UserError
from octvideo.signals import StopOnSignal

__all__ = ["Session", "open_session"]

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """One process of a run.

    Attributes:
        folder: OUTPUT_DIR, in which the run holds the lock.
        world: this process among the others.
        log: silent on all ranks but the first.
        signals: notes SIGTERM and SIGINT.
        lock: of the folder; held by the first rank.
    """

    folder: Path
    world: World
    log: RunLog
    signals: StopOnSignal
    lock: RunLock

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def check_lock(self) -> None:
        """Raise UserError where another run has taken the folder over; call it before writing."""
        if self.world.is_main:
            self.lock.check()

    def until_signal(self, items: Iterable[T], after: int = 0) -> Iterator[T]:
        """Yield the items; a single process raises ``Stopped`` at a signal, also while it waits for an item.

        Several processes must stop after the same item, which they agree on elsewhere. ``after``: the number of items
        that are yielded in any case.
        """
        return self.signals.waiting(items, after) if self.world.size == 1 else iter(items)

    def any_rank_asked_to_stop(self) -> bool:
        """Whether any rank has received a signal. All ranks must call it."""
        return any(self.world.gather(self.signals.asked()))


@contextmanager
def open_session(folder: Path, device: str, signals: StopOnSignal) -> Iterator[Session]:
    """Join the other processes, lock the folder, and open the log.

    Args:
        folder: OUTPUT_DIR.
        device: see ``distributed``.
        signals: an entered one.

    Raises:
        UserError: the folder cannot be written, now or later, or another run is in it.
    """
    try:
        with (
            distributed(device) as world,
            _locked(folder, world) as lock,
            RunLog(folder if world.is_main else None) as log,
        ):
            yield Session(folder, world, log, signals, lock)
    except ConnectionError:  # between the ranks
        raise
    except OSError as error:  # such as a full disk, or a folder in the place of a file
        raise UserError(
            f"OUTPUT_DIR {folder}: the run cannot continue ({error}); free some space or choose another one"
        ) from None


@contextmanager
def _locked(folder: Path, world: World) -> Iterator[RunLock]:
    """Hold the lock of OUTPUT_DIR, which the first rank takes for all; if it cannot, all ranks end with its reason."""
    lock, problem = RunLock(folder), ""
    with ExitStack() as stack:
        try:
            if world.is_main:
                stack.enter_context(lock)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"OUTPUT_DIR {folder}: cannot be written ({error.strerror}); choose another one"
        if problem := world.gather(problem)[0]:
            raise UserError(problem)
        yield lock
