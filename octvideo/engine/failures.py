"""How many unreadable videos a run accepts: the counts of all ranks, the limits and the errors."""

from __future__ import annotations

from octvideo.data import Failure
from octvideo.data.dataset import MAX_CONSECUTIVE_FAILURES
from octvideo.errors import UserError

__all__ = ["FailureBudget", "all_unreadable_error"]


class FailureBudget:
    """Counts unreadable videos over all ranks and stops a run that has too many.

    The counts are those of all ranks together, so all ranks raise the same error, or none does.

    Args:
        max_failed: share of the videos that may be unreadable (DATA.MAX_FAILED).
        always_allowed: number of failures that is accepted whatever its share.

    Attributes:
        drawn, failed: videos drawn so far, and how many of them could not be read.
    """

    def __init__(self, max_failed: float, always_allowed: int = 0) -> None:
        self.max_failed, self.always_allowed = max_failed, always_allowed
        self.drawn = self.failed = 0

    def add(self, drawn: int, failed: int) -> None:
        """Add the counts of all ranks."""
        self.drawn += drawn
        self.failed += failed

    @property
    def exceeded(self) -> bool:
        """Whether more videos failed than are accepted."""
        return self.failed > max(self.always_allowed, self.max_failed * self.drawn)

    def check(self, example: Failure) -> None:
        """Raise UserError, which names the example, where the budget is exceeded."""
        if self.exceeded:
            raise UserError(
                f"{self.failed} of {self.drawn} videos cannot be read, more than DATA.MAX_FAILED ({self.max_failed}) "
                f"allows; one of them: {example.path}: {example.reason}"
            )


def all_unreadable_error(last: Failure) -> UserError:
    """Return the error for ``MAX_CONSECUTIVE_FAILURES`` unreadable videos in a row."""
    return UserError(
        f"{last.path}: {last.reason}; {MAX_CONSECUTIVE_FAILURES} videos in a row cannot be read: check the data"
    )
