"""octavize on layers and on code that is unusual: what cannot work on pairs is given tensors, never a wrong result."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn.utils import prune

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


class Parts(nn.Module):
    """Layers for the networks below, that differ in what they do with them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 16, 1)
        self.bn, self.c, self.end = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 3, 2, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.end(self.middle(x, self.bn(self.a(x)), self.b(x)))

    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        raise NotImplementedError


class Ignored(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        y.add_(z)
        return self.c(y)


class OfAView(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        half = y[:, ::2]
        half += 100
        return self.c(y) + 0 * z


class SecondName(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        kept = y
        y += z
        self.relu(kept)
        return self.c(kept)


@pytest.mark.parametrize("build", [Ignored, OfAView, SecondName])
def test_writes_in_place_are_seen(build: type[Parts]) -> None:
    """Constant maps (no padding is seen in the middle of them) come out as they do of the vanilla network."""
    vanilla = build()
    for conv in (vanilla.stem, vanilla.a, vanilla.end):
        conv.weight.data.mul_((torch.arange(9) == 4).view(3, 3))  # type: ignore[operator]
    network = _check(vanilla)
    assert _octaves(network)
    x = torch.ones(2, 3, 1, 1).expand(2, 3, 32, 32)
    with torch.no_grad():
        for twin in (network, pickle.loads(pickle.dumps(network))):
            torch.testing.assert_close(twin(x), vanilla(x), rtol=1e-4, atol=1e-4)


class LooksAtType(nn.Module):
    """On a pair it would be the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return -x if isinstance(x, Tensor) else x


class RandomlyLeftOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if random.random() < 0.5 else x


class AlwaysDropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.conv(x), 0.5, True)


class Body(nn.Module):
    """A layer between ``middle`` and another of convolutions."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.rest = nn.Conv2d(3, 16, 3, 4, 1), middle, _net()[1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.middle(self.stem(x)))


class LooksInside(Body):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if isinstance(x, Tensor):
            x = -x
        return self.rest(self.middle(x))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(
    "build",
    [lambda: Body(nn.Sequential(LooksAtType())), lambda: LooksInside(nn.Identity()), lambda: Body(RandomlyLeftOut()),
     lambda: Body(AlwaysDropped())],
    ids=["type", "inside", "random", "dropped"],
)  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_what_code_does_beside_tensors_stays(build: Callable[[], nn.Module], alpha: float, training: bool) -> None:
    vanilla = build().train(training)
    network = octavize(vanilla, alpha, example_input=torch.empty(1, 3, 32, 32))
    network.eval(), vanilla.eval()
    x = torch.randn(1, 3, 32, 32)
    several = []
    for model in (vanilla, network):
        torch.manual_seed(1)
        random.seed(1)
        several.append(torch.stack([model(x) for _ in range(4)]))
    if alpha == 0:
        assert torch.equal(*several)
    else:
        assert _octaves(network)
    differ = not torch.equal(several[0][0], several[0][3])
    assert (not torch.equal(several[1][0], several[1][3])) == differ


def test_code_that_tells_pairs_from_tensors_gets_tensors() -> None:
    class Flat(Parts):
        def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return -y if isinstance(y, Tensor) else z

    vanilla = Flat()
    with pytest.warns(UserWarning, match="no convolution of Flat became an octave one"):
        network = octavize(vanilla, 0.5, example_input=torch.empty(1, 3, 32, 32))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(x), vanilla(x))
    inside = _check(Body(nn.Sequential(nn.Conv2d(16, 16, 1), LooksAtType())))
    assert [row.name for row in inside.octave_report if row.kind == "merge"] == ["middle.1"]  # type: ignore[union-attr]


class OwnGradient(torch.autograd.Function):
    """Twice its input, with a gradient that autograd does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OwnGradient.apply(x)


class TwiceFlipped(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return OwnGradient.apply(x.flip(-1))


class TwiceInside(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.c(OwnGradient.apply(self.relu(y)) + self.b(x))


@pytest.mark.parametrize("build", [lambda: _net(Twice()), lambda: _net(TwiceFlipped()), TwiceInside])
def test_functions_with_their_own_gradient_keep_it(build: Callable[[], nn.Module]) -> None:
    """A pair would go through such a function, and the gradients of all layers before it would be lost."""
    assert _octaves(_check(build()))


class Aliased(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.norm = self.bn
        self.layers = nn.Sequential(self.a, self.bn)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.end(self.c(self.layers(x) + self.b(x)))


class Tied(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(16)
        self.bn2.weight = self.bn.weight

    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.c(y + self.bn2(z))


@pytest.mark.parametrize("build", [Aliased, Tied])
def test_norms_with_two_names_stay_one(build: type[Parts]) -> None:
    vanilla = build()
    network = _check(vanilla)
    assert len(list(network.parameters())) == len(list(vanilla.parameters()))


class Masked(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.c(torch.where(y > 0, y, 0.1 * z))


class ByKeyword(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.c(input=self.bn(input=self.a(input=x)) + z)


@pytest.mark.parametrize("build", [Masked, ByKeyword])
def test_masks_and_keywords(build: type[Parts]) -> None:
    assert _octaves(_check(build()))


def test_weights_that_are_computed() -> None:
    vanilla = _net()
    nn.utils.parametrizations.weight_norm(vanilla[2])
    _check(vanilla)
    nn.utils.parametrizations.spectral_norm(vanilla[1])
    octavize(vanilla, 0.5, example_input=torch.empty(1, 3, 32, 32))
    old = _net()
    prune.l1_unstructured(old[1], "weight", 0.5)
    old(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="Sequential cannot be copied.*prune.remove"):
        octavize(old, 0.5)


def test_arguments_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="alpha is '0.5'"):
        octavize(_net(), "0.5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="before torch.compile"):
        octavize(torch.compile(_net()), 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha=1 .*map of 19 x 19"):
        octavize(_net(), 1, example_input=torch.empty(1, 3, 76, 76))


def test_it_is_said_that_nothing_became_octave() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)

    vanilla = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), Standardised(8, 8, 1), Standardised(8, 8, 3, 2, 1))
    message = "no convolution of Sequential became an octave one: 2 of them: Standardised computes something else"
    with pytest.warns(UserWarning, match=message):
        octavize(vanilla, 0.5, example_input=torch.empty(1, 3, 32, 32))


class LooksAtValues(Parts):
    """Not to be run without values."""

    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.c(self.bn(z) if x.sum() > 1e9 else self.bn(y)) + z


def test_code_that_looks_at_values() -> None:
    assert _octaves(_check(LooksAtValues())) == ["a", "b", "c", "end"]


class OfSeveralShapes(Parts):
    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.c(self.c(y).relu()) + z


def test_layers_that_are_called_twice() -> None:
    assert {"a", "b", "c"} <= set(_octaves(_check(OfSeveralShapes())))


class ReadsAttributes(Parts):
    """Keeps its layers in a list as well, and reads what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = (self.a, self.bn)
        self.bn.note = 2.0

    def middle(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        conv, norm = self.kept
        return self.c(norm(conv(x)) * norm.note / conv.out_channels) + 0 * self.b(x)


def test_attributes_of_exchanged_layers_stay() -> None:
    network = _check(ReadsAttributes())
    assert network.kept[0] is network.a and {"a", "c"} <= set(_octaves(network))


class Dilated(nn.Sequential):
    """A trunk whose last maps are an eighth of the input."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 16, 3, 4, 1), nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 2, 2), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 4, 1),
        )  # fmt: skip


def test_dilated_trunk_has_pairs_at_its_final_resolution() -> None:
    assert _octaves(_check(Dilated())) == ["1", "2", "4", "5"]
