"""One process or many: what torchrun and SLURM put into the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from octvideo.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["World", "distributed"]


@dataclass(frozen=True)
class World:
    """This process among all of the run.

    Attributes:
        rank, size: number of this process, and of all.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def rows(self, computed: Tensor, known: Sequence[float]) -> list[list[float]]:
        """Each rank's vector of figures, in order, on every rank: one wait for the device, one exchange.

        Args:
            computed: ``(n,)``, those that are on the device.
            known: the others.
        """
        if self.size == 1:
            return [[*computed.tolist(), *known]]
        mine = torch.cat([computed.double(), torch.tensor(known, dtype=torch.float64, device=self.device)])
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return torch.stack(parts).tolist()

    def peak_memory_mb(self) -> float | None:
        """The most memory so far: of the CUDA device, or of this process; None where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        if resource is None:
            return None
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every rank the first one's buffers: DDP does so before a forward, and batch norm changes them in it."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def distributed(device: str) -> Iterator[World]:
    """Joins the process group that the environment describes (WORLD_SIZE above 1), and leaves it at the end.

    Args:
        device: ``"auto"`` (cuda where there is one), ``"cpu"`` or ``"cuda"``.

    Raises:
        UserError: ``"cuda"`` where there is none, or an environment that makes no sense.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("DEVICE is cuda, but there is no CUDA device; set DEVICE cpu")
    cuda = device != "cpu" and torch.cuda.is_available()
    size, rank, local = _number("WORLD_SIZE", 1), _number("RANK", 0), _number("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise UserError(f"RANK is {rank}, WORLD_SIZE {size} in the environment: start with torchrun, or unset both")
    where = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    if size == 1:
        yield World(0, 1, where)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, where)
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r} in the environment: it must be a number; start with torchrun, or unset it")
    return int(text)
