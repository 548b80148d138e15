"""Random numbers as a pure function of a key such as (seed, pass, video): no state, so a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seed_of", "torch_draws"]


def seed_of(*key: int) -> int:
    """63 bits, hashed from numbers that are not negative."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def torch_draws(seed: int) -> Iterator[None]:
    """Inside, torch's CPU generator begins at ``seed``; afterwards it is as it was before.

    torchvision's transforms draw from it, those of CUDA tensors too. The CUDA generators are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
