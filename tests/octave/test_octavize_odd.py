"""octavize on layers and on code that is unusual: what cannot work on pairs is given tensors, never a wrong result."""

from __future__ import annotations


import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from octvideo.octave import OctConv2d, octavize


def _net(*middle: nn.Module) -> nn.Sequential:
    """The middle works on 16 channels, in the zone of pairs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 1, 1), *middle, nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 3, 2, 1)
    )  # fmt: skip


def _check(vanilla: nn.Module, alpha: float = 0.5, size: int = 32) -> nn.Module:
    """The state stays; at alpha 0 the outputs do; above it the network learns."""
    vanilla.eval()
    x = torch.randn(2, 3, size, size)
    plain, network = (octavize(vanilla, share, example_input=torch.empty(1, 3, size, size)) for share in (0, alpha))
    assert list(network.state_dict()) == list(vanilla.state_dict())
    assert all(torch.equal(network.state_dict()[key], value) for key, value in vanilla.state_dict().items())
    with torch.no_grad():
        y = vanilla(x.clone())
        assert torch.equal(plain(x.clone()), y)
    z = network(x.clone())
    assert z.shape == y.shape and z.isfinite().all()
    z.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    return network


def _octaves(network: nn.Module) -> list[str]:
    return [name for name, layer in network.named_modules() if isinstance(layer, OctConv2d)]


class Gate(nn.Module):
    """ReZero: one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate


class ChannelsLastNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    "layer",
    [nn.GroupNorm(4, 16), ChannelsLastNorm(16), nn.PReLU(16), nn.PReLU(), nn.ConvTranspose2d(16, 16, 2, 2), Gate(),
     nn.SyncBatchNorm(16)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_layers_with_tensors_of_their_own(layer: nn.Module) -> None:
    assert _octaves(_check(_net(layer, nn.ReLU())))


@pytest.mark.parametrize("build", [tv.convnext_tiny, tv.swin_t])
def test_networks_of_other_layers(build: type[nn.Module]) -> None:
    _check(build(), 0.25, 64)
