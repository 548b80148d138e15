"""Norm, SE, merging and counting on pairs."""

import copy
import pickle

import pytest
import torch
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn
from torch.utils import _pytree

from octvideo.analysis.paper_tables import table_rows
from octvideo.octave import (
    OctaveTensor,
    OctBatchNorm2d,
    OctBatchNorm3d,
    OctConv3d,
    OctSqueezeExcitation,
    add,
    merge,
    pool_globally,
    split,
)
from octvideo.octave.complexity import count


def pair(high=6, low=2, size=8, frames=3):
    return OctaveTensor(torch.randn(2, high, frames, size, size), torch.randn(2, low, frames, size // 2, size // 2))


def test_norm_has_the_vanilla_state_dict():
    vanilla, octave = nn.BatchNorm3d(8), OctBatchNorm3d(8, alpha=0.25)
    vanilla.weight.data.uniform_()
    vanilla.running_mean.uniform_()
    assert list(vanilla.state_dict()) == list(octave.state_dict())
    assert octave.load_state_dict(vanilla.state_dict())
    for key, value in octave.state_dict().items():
        assert torch.equal(value, vanilla.state_dict()[key])
    assert octave.high.num_features == 6 and octave.low.num_features == 2
    twin = copy.deepcopy(octave)
    twin.load_state_dict(nn.BatchNorm3d(8).state_dict())
    assert not torch.equal(twin.high.weight, octave.high.weight), "a copy's hooks must act on the copy"
    assert list(pickle.loads(pickle.dumps(octave)).state_dict()) == list(vanilla.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        octave.load_state_dict(nn.BatchNorm3d(9).state_dict())


def test_norm_normalises_each_group():
    octave, x = OctBatchNorm3d(8, alpha=0.25), pair()
    y = octave(x)
    for group in y:
        torch.testing.assert_close(group.mean((0, 2, 3, 4)), torch.zeros(group.shape[1]), atol=1e-5, rtol=0)
    plain, tensor = nn.BatchNorm2d(4), torch.randn(3, 4, 5, 5)
    assert torch.equal(OctBatchNorm2d(4, alpha=0)(tensor), plain(tensor))
    assert OctBatchNorm3d(4, alpha=1)(OctaveTensor(None, torch.randn(2, 4, 1, 3, 3))).high is None
    with pytest.raises(ValueError, match="expects a pair of"):
        octave(torch.randn(2, 8, 3, 4, 4))


def test_sync_and_precise_bn_find_both_groups():
    net = nn.Sequential(OctConv3d(3, 8, 1, alpha_in=0, alpha_out=0.5), OctBatchNorm3d(8, alpha=0.5))
    assert len(get_bn_modules(net.train())) == 2
    clips = [torch.randn(4, 3, 2, 8, 8) + 3 for _ in range(4)]
    update_bn_stats(net, clips, num_iters=4)
    features = torch.cat([net[0](clip).low for clip in clips])
    torch.testing.assert_close(net[1].low.running_mean, features.mean((0, 2, 3, 4)), atol=1e-4, rtol=1e-3)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert [type(child) for child in converted[1].children()] == [nn.SyncBatchNorm] * 2
    assert list(converted[1].state_dict()) == list(nn.BatchNorm3d(8).state_dict())


def test_final_norm_mark_reaches_the_groups():
    norm = OctBatchNorm3d(8, alpha=0.5)
    assert not norm.block_final_bn
    norm.block_final_bn = True
    assert norm.high.block_final_bn and norm.low.block_final_bn


def test_pair_is_pleasant():
    x = pair()
    high, low = x
    assert high is x.high and low is x.low
    doubled = x + x
    assert isinstance(doubled, OctaveTensor) and torch.equal(doubled.low, x.low * 2)
    assert x.channels == 8 and x.to(torch.float64).dtype == torch.float64 and x.device.type == "cpu"
    assert x.shape == x.size() == (2, 8, 3, 8, 8) and x.size(1) == 8 and x.dim() == x.ndim == 5 and len(x) == 2
    leaves, spec = _pytree.tree_flatten(x)
    assert len(leaves) == 2 and isinstance(_pytree.tree_unflatten(leaves, spec), OctaveTensor)
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert torch.equal(twin.low, x.low) and twin.segments == x.segments
    with pytest.raises(ValueError, match="only one has"):
        add(x, OctaveTensor(x.high, None))
    with pytest.raises(AttributeError, match="no attribute 'flaten'"):
        x.flaten(1)
    assert (torch.relu(x).high >= 0).all()


def test_merge_and_split():
    x = pair()
    merged = merge(x)
    assert merged.shape == (2, 8, 3, 8, 8)
    torch.testing.assert_close(merged[:, 6:, :, ::2, ::2], x.low)
    again = split(merged, 0.25)
    torch.testing.assert_close(again.high, x.high)
    torch.testing.assert_close(again.low, x.low)
    # At even sizes the mean of the merged map is the mean of the groups.
    torch.testing.assert_close(pool_globally(x), merged.mean((2, 3, 4)))


def test_squeeze_excitation():
    se, x = OctSqueezeExcitation(8, 2), pair()
    y = se(x)
    pooled = torch.cat([x.high.mean((2, 3, 4)), x.low.mean((2, 3, 4))], 1)
    hidden = torch.relu(pooled @ se.fc1.weight.flatten(1).T + se.fc1.bias)
    gate = torch.sigmoid(hidden @ se.fc2.weight.flatten(1).T + se.fc2.bias)[..., None, None, None]
    torch.testing.assert_close(y.high, x.high * gate[:, :6])
    torch.testing.assert_close(y.low, x.low * gate[:, 6:])
    flat = merge(x)
    torch.testing.assert_close(se(flat), flat * gate)


def test_table_1():
    """Multiply-adds and memory of a layer at the seven ratios, to the percent that is printed."""
    rows = table_rows(1)
    assert [row["alpha"] for row in rows] == [0, 0.125, 0.25, 0.5, 0.75, 0.875, 1]
    for row in rows:
        alpha = row["alpha"]
        assert row["gflops"] == pytest.approx(100 * (1 - 0.75 * alpha * (2 - alpha)))  # Eq. 9
        assert row["memory"] == pytest.approx(100 * (1 - 0.75 * alpha))  # Eq. 5
        assert abs(row["gflops"] - row["paper_gflops"]) <= 0.6
        assert abs(row["memory"] - row["paper_memory"]) <= 0.7


def test_count_of_a_network_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    result = count(net, (1, 3, 8, 8))
    assert result.params == 3 * 4 * 9 + 4 + 4 * 5 + 5
    assert result.multiply_adds == 4 * 64 * (27 + 1) + 4 * 5
    assert result.pooling == 4 * 16 * 4 + 4 * 16
    assert result.activations == 4 * 64 + 5
