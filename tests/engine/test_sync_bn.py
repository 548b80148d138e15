"""Batch norm over all processes."""

from __future__ import annotations

import pytest
import torch
from runs import script_result
from torch import nn

from octvideo.engine.sync_bn import synchronise_batch_norm
from octvideo.octave import OctBatchNorm3d


@pytest.fixture(scope="module")
def synchronised(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return what one process finds with the whole batch, and two with half of it each."""
    folder = tmp_path_factory.mktemp("synchronised")
    return [script_result("synchronised_batches.py", folder / f"{n}.pt", processes=n) for n in (1, 2)]


@pytest.mark.parametrize("kind", ["3d fp32", "2d fp32", "3d bf16", "octavized fp32"])
def test_two_processes_match_one_batch(tmp_path, synchronised, kind):
    """In both groups: outputs, losses, gradients, running statistics."""
    one, two = (found[kind] for found in synchronised)
    tolerance = dict(atol=1e-5, rtol=1e-4) if "fp32" in kind else dict(atol=3e-2, rtol=3e-2)
    assert {"norm.weight", "norm.running_var", "first.running_mean"} <= one["model"].keys()
    assert {"norm.low.weight", "norm.high.bias"} <= one["gradients"][0].keys()
    assert one["model"]["norm.num_batches_tracked"] == 3 and len(one["outputs"]) == 3
    for name in ("outputs", "losses", "gradients"):
        torch.testing.assert_close(two[name], one[name], **tolerance)
    torch.testing.assert_close(dict(two["model"]), dict(one["model"]), **tolerance)
    alone = one["outputs"][0][:4]  # the statistics of one rank differ
    assert (alone.float().mean((0, *range(2, alone.dim()))).abs() > 1e-3).any()


def test_cuda_uses_pytorchs_layer_in_both_groups():
    net = nn.Sequential(OctBatchNorm3d(8, alpha=0.25), nn.BatchNorm3d(8))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    found = synchronise_batch_norm(net, torch.device("cuda"))
    assert [type(module) for module in found.modules()].count(nn.SyncBatchNorm) == 3
    assert list(found.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())
