"""How octave gets into this project's networks: a family builds vanilla layers, and says which become octave.

A family is a ``create_...`` function, which ends with :func:`insert_octave`, and a rule: a function of the network and
the frequencies that returns the :class:`octvideo.octave.plan.Plan`. The network carries its rule, so
:func:`octvideo.octavize` makes the same octave network of the vanilla one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from torch import nn

from octvideo.octave import OctSqueezeExcitation, split_channels
from octvideo.octave._exchange import exchange
from octvideo.octave.ablations import Ablation
from octvideo.octave.plan import ConvPlan, Plan

__all__ = ["Octave", "Rule", "insert_octave"]


@dataclass(frozen=True)
class Octave:
    """Where a network has two frequencies, and how.

    Attributes:
        alpha: share of low-frequency channels; 0 is the vanilla network.
        stages: the residual stages (2 to 5) that are octave. The first block of the first of them enters
            (alpha_in = 0), the first block of the stage after the last leaves (alpha_out = 0).
        multiple: low channels are rounded to a multiple of it; 1 is the paper.
        ablation: how the convolutions differ from Eq. 4.
        pool_vanilla: strided convolutions of one frequency pool first and then have stride 1, as octave ones do.
        pool_leaving: so does the strided 3x3 convolution of the block that leaves.
        fast_alpha: alpha of SlowFast's Fast pathway.
    """

    alpha: float = 0.0
    stages: tuple[int, ...] = (2, 3, 4)
    multiple: int = 1
    ablation: Ablation = Ablation()
    pool_vanilla: bool = False
    pool_leaving: bool = False
    fast_alpha: float = 0.0

    def at(self, stage: int) -> float:
        """Return alpha of a stage's output (stage 1 is the stem)."""
        return self.alpha if stage in self.stages else 0.0

    def new_plan(self) -> Plan:
        """Return a plan without layers."""
        plain = self.ablation == Ablation() and not (self.pool_vanilla or self.pool_leaving)
        return Plan(self.multiple, ablation=None if plain else self.ablation)

    def add_layers(
        self,
        plan: Plan,
        name: str,
        block: nn.Module,
        *,
        alpha: float,
        alpha_in: float | None = None,
        reading: Collection[str] = (),
        writing_tensors: Collection[str] = (),
    ) -> None:
        """Enter the convolutions and batch norms of a block into a plan.

        Args:
            plan: is extended.
            name: of the block in its network.
            block: a module, also a single layer.
            alpha: of the features within the block and of its output.
            alpha_in: of its input; None: ``alpha``.
            reading: the layers, by their names in the block, that take its input: convolutions from ``alpha_in``, and
                norms.
            writing_tensors: convolutions that return a tensor.
        """
        before = alpha if alpha_in is None else alpha_in
        # Squeeze-and-excitation works on means, which have no frequencies.
        scaling = {
            part for layer in block.modules() if isinstance(layer, OctSqueezeExcitation) for part in layer.modules()
        }
        for place, layer in block.named_modules():
            if layer in scaling:
                continue
            key, outer = f"{name}.{place}" if place else name, before if place in reading else alpha
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
                inner = 0.0 if place in writing_tensors else alpha
                if outer or inner or (self.pool_vanilla and layer.stride[-1] == 2):
                    plan.convs[key] = ConvPlan(outer, inner)
            elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)) and outer:
                plan.norms[key] = (split_channels(layer.num_features, outer, self.multiple),)


Rule = Callable[[nn.Module, Octave], Plan]


@dataclass(frozen=True)
class _CarriedRule:
    """The rule and the frequencies that a network was built with; ``octavize`` gives another alpha."""

    rule: Rule
    octave: Octave

    def __call__(self, network: nn.Module, alpha: float, multiple: int) -> Plan:
        return self.rule(network, replace(self.octave, alpha=alpha, multiple=multiple))


def insert_octave(network: nn.Module, octave: Octave, rule: Rule) -> None:
    """Make a vanilla network octave, in place, and let it carry its rule.

    Raises:
        ValueError: a layer cannot have these frequencies.
    """
    network.octave_rule = _CarriedRule(rule, octave)  # type: ignore[assignment]
    exchange(network, rule(network, octave))
