"""Conversion to OpenVINO: as fast as it can be, and of any network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from octvideo.backends.runners import create_runner

pytest.importorskip("openvino")


class _Odd(nn.Module):
    """Operators of which the converter knows none, in forms that the networks here do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(4, 6, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1), dilation=(1, 1, 2), groups=2)
        self.norm = nn.BatchNorm3d(6, eps=0.1)
        self.image = nn.Conv2d(6, 5, 3, bias=False)
        self.plane_norm = nn.BatchNorm2d(5, affine=False)
        self.drop = nn.Dropout(0.9)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :1] * 2], 1)
        x = self.norm(self.volume(nn.functional.max_pool3d(x, (1, 3, 3), stride=(1, 1, 2), padding=(0, 1, 1))))
        x = nn.functional.adaptive_avg_pool3d(x, 1) + x
        frames = x.transpose(1, 2).flatten(0, 1)
        frames = nn.functional.max_pool2d(self.plane_norm(self.image(frames)), 2, ceil_mode=True)
        frames = nn.functional.adaptive_avg_pool2d(frames, 1)
        return self.head(self.drop(frames).reshape(-1, 4, 5).mean(1))


def _check(network: nn.Module) -> None:
    torch.manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    network.eval()
    runner = create_runner("openvino", network, (4, 10, 9), torch.device("cpu"))
    for views in (1, 3):
        clips = torch.randn(views, 3, 4, 10, 9)
        with torch.no_grad():
            torch.testing.assert_close(runner(clips), network(clips), rtol=1e-4, atol=1e-5)


def test_operators_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ExportedProgram, "run_decompositions", lambda *_: pytest.fail("the slow way: an operator is not replaced")
    )
    _check(_Odd())


def test_other_operators_take_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(_Odd):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.softshrink(super().forward(x), 0.01)

    decompose, slow = ExportedProgram.run_decompositions, []
    monkeypatch.setattr(
        ExportedProgram, "run_decompositions", lambda self, *given: slow.append(1) or decompose(self, *given)
    )
    _check(Other())
    assert slow
