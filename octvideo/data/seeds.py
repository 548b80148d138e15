"""Random numbers as a pure function of a key such as (seed, pass, video): a resumed run draws the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seed_of", "fork_torch_rng"]


def seed_of(*key: int) -> int:
    """Hash non-negative numbers to a seed of 63 bits."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def fork_torch_rng(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, and restore its state afterwards.

    torchvision's transforms draw from it, also for CUDA tensors. The CUDA generators do not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
