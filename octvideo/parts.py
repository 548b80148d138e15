"""Divide long work among tasks, so that the result does not depend on their number."""

from __future__ import annotations

import os
import re
import zlib
from typing import NamedTuple

__all__ = ["Part"]


class Part(NamedTuple):
    """One of several tasks that share the items of a list.

    A hash of its name says which task an item belongs to. So a list that grows while tasks wait in a queue changes
    neither the task of an item nor what a resumed task has done ::

        crc32("a.mp4") % 8 = 2   ->   part 3/8 has a.mp4, wherever the list has it

    Attributes:
        number: from 1.
        total: number of all tasks.
        at_once: number of tasks that run at the same time; they share limits such as a download rate.
    """

    number: int
    total: int
    at_once: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``I/N``, or ``I/N%M`` where M of the tasks run at the same time.

        Raises:
            ValueError: anything else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)(?:%(\d+))?", text)
        if not found:
            raise ValueError(f"{text!r} is not a part; write I/N, such as 3/8")
        number, count = int(found[1]), int(found[2])
        at_once = min(int(found[3] or count), count)
        if not 1 <= number <= count or not at_once:
            raise ValueError(f"{text!r}: the parts of {count} are 1/{count} to {count}/{count}")
        return cls(number, count, at_once)

    def __str__(self) -> str:
        return f"{self.number}/{self.total}%{self.at_once}"

    @property
    def suffix(self) -> str:
        """Return the end of the name of a file of this part: ``part-3-of-8``."""
        return f"part-{self.number}-of-{self.total}"

    def has(self, name: str) -> bool:
        """Tell whether an item belongs to this part."""
        return zlib.crc32(os.fsencode(name)) % self.total == self.number - 1
