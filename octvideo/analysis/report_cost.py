"""What a network costs compared with its twin: the same without octave convolution, or with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from fvcore.common.config import CfgNode

from octvideo.backends.runners import create_runner
from octvideo.benchmarking.timing import hardware, interleaved, timed
from octvideo.config import with_keys
from octvideo.device import resolve_device
from octvideo.errors import UserError
from octvideo.models import build_model
from octvideo.octave.complexity import count

__all__ = ["Cost", "cost_note", "measure_costs", "network_name"]

_ROUNDS = 20
_TWIN_ALPHA = 0.25  # of the octave twin of a vanilla network
_MOST_TIMED = 5e9  # multiply-adds of a clip on a CPU: the rounds take some seconds up to here


@dataclass
class Cost:
    """The cost of one clip.

    Attributes:
        name: of the network.
        alpha: share of its low-frequency channels.
        multiply_adds: of convolutions and fully connected layers.
        params: number of parameters.
        device: "cpu", "cuda" or "mps".
        seconds: of a forward pass; None where it was not timed.
    """

    name: str
    alpha: float
    multiply_adds: int
    params: int
    device: str
    seconds: float | None = None


def network_name(cfg: CfgNode) -> str:
    """Return the name of a network: ``i3d``, ``oct_i3d``."""
    return f"{'oct_' if cfg.OCTAVE.ALPHA else ''}{cfg.MODEL.ARCH}"


def measure_costs(cfg: CfgNode) -> list[Cost]:
    """Return the cost of a network and of its twin, at the size of test clips.

    Both are timed in turn, as ``octvideo predict`` runs them, unless they are too large.
    """
    if cfg.OCTAVE.ALPHA:
        twin = with_keys(cfg, {"OCTAVE.ALPHA": 0.0, "OCTAVE.FAST_ALPHA": 0.0})
    else:
        twin = with_keys(cfg, {"OCTAVE.ALPHA": _TWIN_ALPHA})
    device = resolve_device(cfg.DEVICE)
    clip = torch.randn(1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP, cfg.DATA.TEST_CROP, device=device)
    clip = clip.contiguous(memory_format=torch.channels_last_3d)
    costs, models = [], []
    for settings in (cfg, twin):
        settings = with_keys(settings, {"MODEL.CONV_AS_2D": device.type == "cpu"})
        try:
            models.append(build_model(settings).eval())
        except UserError:  # not every vanilla network has an octave twin
            continue
        found = count(models[-1], clip.shape)
        name, alpha = network_name(settings), settings.OCTAVE.ALPHA
        costs.append(Cost(name, alpha, found.multiply_adds, found.params, device.type))
    if device.type == "cuda" or max(cost.multiply_adds for cost in costs) <= _MOST_TIMED:
        runners = {
            cost.name: create_runner("torch", model, clip.shape[2:], device) for cost, model in zip(costs, models)
        }
        for runner in 2 * list(runners.values()):  # warm up
            runner(clip)
        passes = {name: partial(timed, partial(runner, clip)) for name, runner in runners.items()}
        seconds = interleaved(passes, _ROUNDS)
        for cost in costs:
            cost.seconds = seconds[cost.name]
    return costs


def cost_note(costs: Sequence[Cost], cfg: CfgNode) -> str:
    """Return what the costs are of, how they compare, and how they were measured."""
    clip = f"For one clip of {cfg.DATA.NUM_FRAMES} x {cfg.DATA.TEST_CROP} x {cfg.DATA.TEST_CROP}."
    more = "tools/benchmark.py forward compares runtimes."
    if costs[0].seconds is None:
        return f"{clip} Not timed: a network of this size takes minutes on a CPU; {more}"
    machine = hardware()
    where = machine["gpu"] if costs[0].device != "cpu" else f"{machine['cpu']}, {machine['threads']} thread(s)"
    method = f"Time: median of N = {_ROUNDS} rounds, the networks in turn, in PyTorch {machine['torch']} on {where}."
    ratio = ""
    if len(costs) == 2:
        octave, vanilla = sorted(costs, key=lambda cost: -cost.alpha)
        assert octave.seconds and vanilla.seconds
        ratio = (
            f"The octave network takes {octave.multiply_adds / vanilla.multiply_adds:.2f} times the multiply-adds and "
            f"{octave.seconds / vanilla.seconds:.2f} times the time of its vanilla twin. "
        )
    return f"{ratio}{clip} {method} {more}"
