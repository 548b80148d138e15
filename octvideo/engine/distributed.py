"""One process or many: how they find each other, and what they exchange."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from octvideo.device import resolve_device
from octvideo.engine.ranks import Place, find_place
from octvideo.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["World", "distributed"]

_PATIENCE = 600.0  # seconds that the processes of a run may start one after the other
_SOON = 1.0  # seconds of waiting that are not worth a word


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

    def all_gather_row(self, on_device: Tensor, on_host: Sequence[float]) -> list[list[float]]:
        """Return each rank's numbers, in order of the ranks, on every rank: one wait for the device, one exchange.

        Args:
            on_device: ``(n,)``, the numbers that are on the device.
            on_host: the others.
        """
        if self.size == 1:
            return [[*on_device.tolist(), *on_host]]
        row = torch.cat([on_device.double(), torch.tensor(on_host, dtype=torch.float64, device=self.device)])
        rows = [torch.empty_like(row) for _ in range(self.size)]
        dist.all_gather(rows, row)
        return torch.stack(rows).tolist()

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
def distributed(device: str, patience: float = _PATIENCE) -> Iterator[World]:
    """Joins the process group that the environment describes, see ``find_place``, and leaves it at the end.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``, see ``resolve_device``.
        patience: seconds to wait for the other processes.

    Raises:
        UserError: ``"cuda"`` where there is none, an environment that makes no sense, or processes that do not come.
    """
    cuda = resolve_device(device).type == "cuda"
    place = find_place(os.environ)
    where = torch.device("cuda", _gpu(place)) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
    if place.size == 1:
        yield World(0, 1, where)
        return
    store = _meet(place, patience)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=place.rank, world_size=place.size)
    try:
        yield World(place.rank, place.size, where)
    finally:
        dist.destroy_process_group()


def _gpu(place: Place) -> int:
    count = torch.cuda.device_count()
    if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ and "SLURM_LOCALID" in os.environ:
        return 0  # SLURM shows each task its own
    if place.local >= count:
        raise UserError(
            f"LOCAL_RANK={place.local} (process {place.rank}), but this node has {count} GPUs: start one process for "
            "each GPU, or set DEVICE cpu"
        )
    return place.local


def _meet(place: Place, patience: float) -> dist.Store:
    """The store of a world whose processes are all there; says on stderr whom it waits for.

    Waits in Python: a signal ends it, which it would not within ``init_process_group``.

    Raises:
        UserError: some do not come.
    """
    begun, said, here = time.monotonic(), False, 1
    where = f"{place.address}:{place.port}"
    store: dist.Store | None = None
    while True:
        store = store or _store(place, patience)
        if store is not None:
            try:
                here = sum(store.check([f"rank{rank}"]) for rank in range(place.size))
            except RuntimeError:
                raise UserError(f"the first process, at {where}, has ended: its message says why") from None
            if here == place.size:
                return store
        passed = time.monotonic() - begun
        whom = "the first process" if store is None else f"{place.size - here} of {place.size} processes"
        if passed > patience:
            raise UserError(
                f"waited {patience:.0f} s in vain for {whom} at {where}: start all of them, or, to run alone, unset "
                "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (in a task of srun: SLURM_PROCID)"
            )
        if passed > _SOON and not said:
            print(f"waiting for {whom} at {where}, at most {_duration(patience)}", file=sys.stderr, flush=True)
            said = True
        time.sleep(0.1)


def _store(place: Place, patience: float) -> dist.Store | None:
    """Joins the store of the first process, which makes it; None where that is not there yet."""
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
    makes = place.rank == 0 and not served
    if not makes:
        try:
            socket.create_connection((place.address, place.port), timeout=1).close()
        except OSError:
            return None
    try:
        store = dist.TCPStore(
            # The first process reaches its own store whatever others call it.
            "localhost" if makes else place.address,
            place.port,
            world_size=place.size,
            is_master=makes,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        if not makes:  # it has just gone
            return None
        reason = str(error).splitlines()[0]
        raise UserError(f"MASTER_PORT={place.port}: cannot listen there ({reason}); take another one") from None
    named = dist.PrefixStore(f"octvideo{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    named.set(f"rank{place.rank}", "")
    return named


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
