"""octavize: state, costs, report, copies, errors. ``test_octavize_networks`` has the large networks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

import octvideo
from octvideo.octave import OctConv2d, OctConv3d, describe, octavize
from octvideo.octave.complexity import count


class Tiny3d(nn.Module):
    """Every kind of node in one small network: functions, methods, a gate, concatenation, an unknown operation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, 3, stride=(1, 2, 2), padding=1, bias=False)
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.a, self.a_norm = nn.Conv3d(16, 32, 3, padding=1), nn.BatchNorm3d(32)
        self.b, self.b_norm = nn.Conv3d(32, 32, 3, padding=1, groups=32), nn.BatchNorm3d(32)
        self.squeeze, self.fc1, self.fc2 = nn.AdaptiveAvgPool3d(1), nn.Conv3d(32, 8, 1), nn.Conv3d(8, 32, 1)
        self.down = nn.MaxPool3d(2, 2)
        self.c, self.d = nn.Conv3d(32, 32, 1), nn.Conv3d(64, 32, 3, stride=(1, 2, 2), padding=1)
        self.e = nn.Conv3d(32, 32, 3, stride=(1, 2, 2), padding=1)
        self.f = nn.Conv3d(32, 32, 3, stride=(1, 2, 2), padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        x = torch.nn.functional.relu(self.a_norm(self.a(x)), inplace=True)
        y = self.b_norm(self.b(x)).relu_()
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(self.squeeze(y)))))
        x = torch.add(x, y * gate)
        x = self.down(x)
        x = self.d(torch.cat([x, self.c(x)], 1))
        x = torch.nn.functional.dropout(x, 0.5, self.training)
        x = self.f(self.e(x.flip(3)))
        return self.head(x.mean([2, 3, 4]))


IMAGE, CLIP = (2, 3, 64, 64), (2, 3, 4, 48, 48)
# Name, builder, shape, alpha, the number of octave convolutions.
NETWORKS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], float, int]] = [
    ("resnet18", tv.resnet18, IMAGE, 0.125, 16),
    ("mobilenet_v3_small", tv.mobilenet_v3_small, IMAGE, 0.25, 23),
    ("r3d_18", tv.video.r3d_18, CLIP, 0.25, 16),
    ("tiny", Tiny3d, CLIP, 0.5, 6),
]
every_network = pytest.mark.parametrize(
    ("build", "shape", "alpha", "octaves"), [row[1:] for row in NETWORKS], ids=[row[0] for row in NETWORKS]
)
some_networks = pytest.mark.parametrize(
    ("build", "shape", "alpha"), [row[1:4] for row in NETWORKS], ids=[row[0] for row in NETWORKS]
)


def _octaves(model: nn.Module) -> int:
    return sum(isinstance(layer, (OctConv2d, OctConv3d)) for layer in model.modules())


@every_network
def test_trains_and_keeps_the_state(
    build: Callable[[], nn.Module], shape: tuple[int, ...], alpha: float, octaves: int
) -> None:
    torch.manual_seed(0)
    vanilla = build()
    network = octavize(vanilla, alpha)
    assert _octaves(network) == octaves and _octaves(vanilla) == 0

    before, after = vanilla.state_dict(), network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    network.load_state_dict(before)

    x = torch.randn(shape)
    y = network.train()(x)
    y.square().sum().backward()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(parameter.grad is None for parameter in vanilla.parameters())

    odd = torch.randn(1, *shape[1:-2], 51, 43)
    with torch.no_grad():
        y_odd = network.eval()(odd)
    assert y_odd.shape == (1, y.shape[1]) and y_odd.isfinite().all()


@some_networks
def test_alpha_0_is_bit_identical(build: Callable[[], nn.Module], shape: tuple[int, ...], alpha: float) -> None:
    vanilla = build().eval()
    network = octavize(vanilla, 0)
    x = torch.randn(1, *shape[1:])
    with torch.no_grad():
        assert torch.equal(vanilla(x), network(x))
    assert _octaves(network) == 0 and not network.training


@some_networks
def test_costs_less_with_alpha(build: Callable[[], nn.Module], shape: tuple[int, ...], alpha: float) -> None:
    example = torch.empty(1, 3, *((8, 112, 112) if len(shape) == 5 else (224, 224)))
    vanilla = build()
    network = octavize(vanilla, alpha, example_input=example)
    after, before = count(network, example.shape), count(vanilla, example.shape)
    assert after.multiply_adds < before.multiply_adds and after.params == before.params
    rows = network.octave_report
    assert sum(row.before for row in rows) == before.multiply_adds
    assert sum(row.after for row in rows) == after.multiply_adds


def test_resnet50_costs_what_the_paper_says() -> None:
    """4.1 / 3.6 / 3.1 / 2.4 billion multiply-adds, with the pooling of the octave convolutions."""
    with torch.device("meta"):
        vanilla = tv.resnet50()
    costs = [count(octavize(vanilla, alpha), (1, 3, 224, 224)).as_dict() for alpha in (0, 0.125, 0.25, 0.5)]
    assert [round(cost["gflops_with_pooling"], 1) for cost in costs] == [4.1, 3.6, 3.1, 2.4]


def test_spatially_constant_input_passes_unchanged() -> None:
    """Pooling and up-sampling keep a constant, so with 1x1 kernels and no padding the octave network is the vanilla."""
    vanilla = nn.Sequential(
        nn.Conv2d(3, 8, 1, stride=2), nn.MaxPool2d(2), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.SiLU(),
        nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    network = octavize(vanilla, 0.5, example_input=torch.empty(1, 3, 32, 32))
    assert _octaves(network) == 3
    x = torch.randn(2, 3, 1, 1).expand(2, 3, 32, 32)
    torch.testing.assert_close(network(x), vanilla(x))


@pytest.mark.parametrize("size", range(24, 32))
def test_every_remainder_of_the_size(size: int) -> None:
    """Strides and pooling halve both groups: they stay one octave apart, whatever is left over."""
    network = octavize(Tiny3d(), 0.25).eval()
    assert network(torch.randn(1, 3, 4, size, size + 3)).isfinite().all()


def test_report_names_layers_and_merges() -> None:
    network = octavize(Tiny3d(), 0.5)
    merges = [row.name for row in network.octave_report if row.kind == "merge"]
    assert merges == ["flip"]
    rows = {row.name: row for row in network.octave_report}
    assert (rows["stem"].kind, rows["d"].alpha_in, rows["d"].alpha_out) == ("Conv3d", 0.5, 0.5)
    assert (rows["f"].alpha_in, rows["f"].alpha_out) == (0.5, 0)  # the final resolution is plain
    table = describe(network)
    assert "OctConv3d" in table and table.splitlines()[-1].startswith("total")


def test_copies_pickles_and_compiles() -> None:
    network = octavize(Tiny3d(), 0.25).eval()
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(torch.compile(network, backend="eager", fullgraph=True)(x), network(x))
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), network(x))
        assert twin.octave_report == network.octave_report
        assert list(twin.state_dict()) == list(network.state_dict())
        assert _octaves(twin) == _octaves(network) and not twin.training


def test_dropout_follows_the_mode() -> None:
    network = octavize(Tiny3d().eval(), 0.25)
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(network(x), network(x))
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    assert not torch.equal(network(x), network(x))


def test_multiple_and_groups() -> None:
    vanilla = nn.Sequential(
        nn.Conv2d(3, 64, 3, 4, 1), nn.Conv2d(64, 64, 3, 1, 1, groups=32), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1, groups=32), nn.Conv2d(64, 64, 3, 2, 1),
    )  # fmt: skip
    network = octavize(vanilla, 0.25, multiple=32)
    lows = [layer.out_low for layer in network.modules() if isinstance(layer, OctConv2d) and layer.alpha_out]
    assert lows == [32, 32, 32]
    # Otherwise the 32 groups do not divide 16 low channels: these convolutions stay vanilla.
    assert [row.kind for row in octavize(vanilla, 0.25).octave_report] == [
        "merge", "Conv2d", "Conv2d", "OctConv2d", "Conv2d", "Conv2d",
    ]  # fmt: skip


def test_frozen_parameters_and_dtype_stay() -> None:
    vanilla = tv.resnet18().double()
    vanilla.layer2[0].bn1.weight.requires_grad_(False)
    vanilla.layer2[0].conv1.weight.requires_grad_(False)
    network = octavize(vanilla, 0.25)
    names = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert "layer2.0.conv1.weight" in names and {name.rsplit(".bn1.", 1)[0] for name in names} >= {"layer2.0"}
    assert network(torch.randn(2, 3, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match="no Conv2d or Conv3d"):
        octavize(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="alpha is 1.5"):
        octavize(tv.resnet18(), 1.5)
    with pytest.raises(ValueError, match="does not run on an input of shape"):
        octavize(tv.resnet18(), example_input=torch.empty(1, 4, 64, 64))
    assert octvideo.octavize is octavize
