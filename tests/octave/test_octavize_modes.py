"""octavize on networks whose code asks for the mode."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from octvideo.octave import OctConv2d, octavize

SIZES = {"googlenet": 128, "scaled": 64}


class Scaled(nn.Module):
    """Adds another head in training, and halves its features in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 4, 1)
        self.one = nn.Conv2d(16, 16, 3, 1, 1)
        self.two = nn.Conv2d(16, 32, 3, 2, 1)
        self.three = nn.Conv2d(32, 32, 3, 2, 1)
        self.head, self.aux = nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.two(self.one(self.stem(x)).relu()).relu()
        aux = x.mean((2, 3))
        x = self.three(x if self.training else 0.5 * x).relu()
        logits = self.head(x.mean((2, 3)))
        return (logits, self.aux(aux)) if self.training else logits


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "googlenet": lambda: tv.googlenet(num_classes=7, aux_logits=True, init_weights=False),
    "scaled": Scaled,
}


def run(network: nn.Module, x: Tensor, training: bool) -> list[Tensor]:
    network.train(training)
    torch.manual_seed(1)
    with torch.no_grad():
        out = network(x)
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.mark.parametrize("traced_in", [True, False])
@pytest.mark.parametrize("name", BUILDERS)
def test_each_mode_does_what_the_vanilla_network_does(name: str, traced_in: bool) -> None:
    torch.manual_seed(0)
    vanilla, size = BUILDERS[name]().train(traced_in), SIZES[name]
    x = torch.randn(2, 3, size, size)
    example = torch.empty(1, 3, size, size)
    plain = octavize(vanilla, 0.0, example_input=example)
    octave = octavize(vanilla, 0.25, example_input=example)
    assert sum(isinstance(layer, OctConv2d) for layer in octave.modules()) > 0
    assert list(octave.state_dict()) == list(vanilla.state_dict())
    for training in (True, False, True):
        expected = run(copy.deepcopy(vanilla), x, training)
        assert len(expected) > training, "the modes differ"
        for network in (plain, copy.deepcopy(plain)):
            got = run(copy.deepcopy(network), x, training)
            assert len(got) == len(expected) and all(map(torch.equal, got, expected))
        assert [y.shape for y in run(octave, x, training)] == [y.shape for y in expected]
    octave.train()
    sum(y.sum() for y in octave(x)).backward()
    assert all(parameter.grad is not None for parameter in octave.parameters())


def test_it_can_be_saved_and_loaded_whole() -> None:
    torch.manual_seed(0)
    network, x = octavize(Scaled(), 0.25, example_input=torch.empty(1, 3, 64, 64)), torch.randn(2, 3, 64, 64)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for training in (True, False, True):
        assert all(map(torch.equal, run(loaded, x, training), run(network, x, training)))
