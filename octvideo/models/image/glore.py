"""The global reasoning unit (Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019) on two frequencies.

The nodes are gathered from one map: the two 1x1 convolutions that read the pair return one tensor (alpha_out = 0). The
result goes back in two frequencies: the last ``int(alpha * states)`` states at half the resolution.
So the unit has the same parameters, keys and shapes at every alpha.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from octvideo.octave import Feature, OctaveTensor, OctConv2d, add
from octvideo.octave.functional import downsample

__all__ = ["GloRe"]


class GloRe(nn.Module):
    """Adds to each position features of ``nodes`` global nodes of ``states`` features; it starts as the identity.

    Args:
        channels: of input and output.
        nodes, states: of the graph; the paper has states = 2 * nodes.
    """

    def __init__(self, channels: int, nodes: int, states: int) -> None:
        super().__init__()
        self.conv_state = nn.Conv2d(channels, states, 1)
        self.conv_project = nn.Conv2d(channels, nodes, 1)
        self.mix_nodes = nn.Conv1d(nodes, nodes, 1)
        self.mix_states = nn.Conv1d(states, states, 1, bias=False)
        self.conv_out = nn.Conv2d(states, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        for parameter in self.norm.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Feature) -> Feature:
        """``(N, channels, H, W)`` or a pair; shapes are kept."""
        state: Tensor = self.conv_state(x)
        assignment: Tensor = self.conv_project(x)  # (N, nodes, H, W)
        projection = assignment.flatten(2)
        nodes = projection @ state.flatten(2).transpose(1, 2) / projection.shape[-1]  # (N, nodes, states)
        nodes = F.relu(nodes + self.mix_nodes(nodes))
        nodes = self.mix_states(nodes.transpose(1, 2))  # (N, states, nodes)
        if not isinstance(self.conv_out, OctConv2d):
            return add(x, self.norm(self.conv_out(_back(nodes, assignment))))
        high, low = nodes.split([self.conv_out.in_high, self.conv_out.in_low], 1)
        pair = OctaveTensor(
            _back(high, assignment) if high.shape[1] else None,
            _back(low, downsample(assignment)) if low.shape[1] else None,
        )
        return add(x, self.norm(self.conv_out(pair)))


def _back(nodes: Tensor, assignment: Tensor) -> Tensor:
    """Project states of the nodes ``(N, C, nodes)`` to the positions of ``assignment`` ``(N, nodes, H, W)``."""
    return (nodes @ assignment.flatten(2)).unflatten(2, assignment.shape[2:])
