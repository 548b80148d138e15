"""The processes of a run: how they meet, and what they exchange."""

from __future__ import annotations

import os
import re
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

_PATIENCE = 600.0  # seconds between the first process and the last
_TIMEOUT = 1800.0  # seconds that an exchange may wait for another process: longer than a loader waits for a batch
_SILENT = 1.0  # seconds of waiting without a message
# What gloo, NCCL and the store say where another process hangs, or has ended.
_HANGS = re.compile("timed out|timeout", re.IGNORECASE)
_ENDED = re.compile("by peer|Broken pipe|remote worker|ncclRemoteError")


@dataclass(frozen=True)
class World:
    """This process among all processes of the run.

    Attributes:
        rank, size: number of this process, and of all.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order of the ranks, on every rank."""
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
        """Return the peak memory of the CUDA device, or of this process; None where the system does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        if resource is None:
            return None
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, other systems kilobytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

    def share_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers to all ranks. DDP does so before a forward pass, in which batch norm changes them."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def distributed(device: str, patience: float = _PATIENCE) -> Iterator[World]:
    """Join the process group that the environment describes (see ``find_place``), and leave it at the end.

    Args:
        device: see ``resolve_device``.
        patience: seconds to wait for the other processes.

    Raises:
        UserError: there is no such device, the environment is inconsistent, or a process is missing or ends before
            the others.
    """
    computes_on = resolve_device(device)
    cuda = computes_on.type == "cuda"
    place = find_place(os.environ)
    if computes_on.type == "mps" and place.size > 1:
        raise UserError(f"{place.size} processes on device mps, which takes one: start one process, or set DEVICE cpu")
    if cuda:
        computes_on = torch.device("cuda", _gpu(place))
        torch.cuda.set_device(computes_on)
    if place.size == 1:
        yield World(0, 1, computes_on)
        return
    store = _meet(place, patience)
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=_TIMEOUT),
        )
        yield World(place.rank, place.size, computes_on)
    except RuntimeError as error:
        if lost := _lost_process(error):
            raise lost from None
        raise
    finally:
        # PyTorch 2.6 waits for gloo's threads here and keeps the interpreter's lock, which they need to free the last
        # tensors. Give them the time before.
        time.sleep(0.1)
        if dist.is_initialized():
            dist.destroy_process_group()


def _lost_process(error: RuntimeError) -> UserError | None:
    """Return the error of a process whose exchange another one does not finish; None for other errors."""
    reason = str(error).partition("\n")[0]
    if _HANGS.search(reason):
        return UserError(
            f"waited {_duration(_TIMEOUT)} in vain for another process of the run, which hangs or is suspended: see "
            "its message, end it, and run the same command again to resume"
        )
    if _ENDED.search(reason):
        return UserError(
            "another process of the run has ended: see its message; without one the system may have killed it, as when "
            "memory is short; run the same command again to resume"
        )
    return None


def _gpu(place: Place) -> int:
    count = torch.cuda.device_count()
    if count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ and "SLURM_LOCALID" in os.environ:
        return 0  # SLURM shows each task only its own GPU
    if place.local >= count:
        raise UserError(
            f"LOCAL_RANK={place.local} (process {place.rank}), but this node has {count} GPUs: start one process for "
            "each GPU, or set DEVICE cpu"
        )
    return place.local


def _meet(place: Place, patience: float) -> dist.Store:
    """Wait until all processes are there, and return their store; print what it waits for.

    It waits in Python, where a signal stops it. ``init_process_group`` would not notice one.

    Raises:
        UserError: a process is missing.
    """
    begun, printed, here = time.monotonic(), False, 1
    address = f"{place.address}:{place.port}"
    store: dist.Store | None = None
    while True:
        store = store or _store(place, patience)
        if store is not None:
            try:
                here = sum(store.check([f"rank{rank}"]) for rank in range(place.size))
            except RuntimeError:
                raise UserError(f"the first process, at {address}, has ended: see its message") from None
            if here == place.size:
                return store
        passed = time.monotonic() - begun
        missing = "the first process" if store is None else f"{place.size - here} of {place.size} processes"
        if passed > patience:
            raise UserError(
                f"waited {patience:.0f} s in vain for {missing} at {address}: start all of them; to run alone, unset "
                "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (in a task of srun: SLURM_PROCID)"
            )
        if passed > _SILENT and not printed:
            print(f"waiting for {missing} at {address}, at most {_duration(patience)}", file=sys.stderr, flush=True)
            printed = True
        time.sleep(0.1)


def _store(place: Place, patience: float) -> dist.Store | None:
    """Join the store of the first process, which makes it; return None where it is not there yet."""
    by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    makes_it = place.rank == 0 and not by_torchrun
    if not makes_it:
        try:
            socket.create_connection((place.address, place.port), timeout=1).close()
        except OSError:
            return None
    try:
        store = dist.TCPStore(
            # The first process may not reach its store by the name that others use.
            "localhost" if makes_it else place.address,
            place.port,
            world_size=place.size,
            is_master=makes_it,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        if not makes_it:  # it has just ended
            return None
        reason = str(error).splitlines()[0]
        raise UserError(f"MASTER_PORT={place.port}: cannot listen there ({reason}); choose another one") from None
    prefixed = dist.PrefixStore(f"octvideo{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    prefixed.set(f"rank{place.rank}", "")
    return prefixed


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
