"""Train octave networks with batch norm over all ranks on fixed batches (``OUT``), alone or under torchrun."""

from __future__ import annotations

import sys

import torch
from fixed_batches import batches
from torch import Tensor, nn
from trainers import make_trainer

from octvideo.engine.distributed import World, distributed
from octvideo.engine.sync_bn import synchronise_batch_norm
from octvideo.engine.trainer import StepStats, Trainer
from octvideo.octave import OctBatchNorm2d, OctBatchNorm3d, OctConv2d, OctConv3d, octavize, pool_globally


class Network(nn.Module):
    """A vanilla batch norm, and an octave convolution with the batch norm of its groups, in two or three dimensions."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv, norm = {2: (OctConv2d, OctBatchNorm2d), 3: (OctConv3d, OctBatchNorm3d)}[dims]
        self.dims = dims
        self.first = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](3)
        self.conv = conv(3, 8, 3, padding=1, bias=False, alpha_in=0.0, alpha_out=0.25)
        self.norm, self.relu, self.head = norm(8, alpha=0.25), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, clips: Tensor) -> Tensor:
        x = clips if self.dims == 3 else clips[:, :, 0]
        return self.head(pool_globally(self.relu(self.norm(self.conv(self.first(x))))))


class Vanilla(nn.Module):
    """A network that ``octavize`` gives a pair between its first and its last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.stem = nn.BatchNorm3d(3), nn.Conv3d(3, 8, 3, (1, 2, 2), 1)
        self.conv, self.norm, self.relu = nn.Conv3d(8, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU()
        self.last, self.head = nn.Conv3d(8, 8, 3, (1, 2, 2), 1), nn.Linear(8, 3)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.stem(self.first(clips)))))
        return self.head(self.last(x).mean((2, 3, 4)))


def trained(world: World, dims: int, precision: str) -> dict[str, object]:
    """Take three steps; return outputs of the batch norm for all clips, losses, gradients and the state dict.

    ``dims`` is that of ``Network``; 0: of the octavized one.
    """
    torch.manual_seed(0)
    net: nn.Module = Network(dims) if dims else octavize(Vanilla(), 0.25, example_input=torch.empty(1, 3, 4, 8, 8))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    if world.size > 1:
        net = synchronise_batch_norm(net, world.device)
    assert list(net.state_dict()) == list(before)
    outputs: list[Tensor] = []
    net.norm.register_forward_hook(lambda _, __, pair: outputs.append(pair.low.detach()))  # type: ignore[union-attr,operator]
    gradients: list[dict[str, Tensor]] = []
    losses: list[float] = []

    def record(_: Trainer, stats: StepStats) -> None:
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        losses.append(stats.loss)

    make_trainer(net, 3, world=world, momentum=0.9, precision=precision, hooks=[record]).train(batches(world))
    parts = [torch.cat(part) for part in zip(*world.gather(outputs))]
    return {"outputs": parts, "losses": losses, "gradients": gradients, "model": net.state_dict()}


def main(out: str) -> None:
    """Write what each kind of network finds."""
    with distributed("cpu") as world:
        found = {
            f"{dims}d {kind}": trained(world, dims, kind) for dims, kind in ((3, "fp32"), (2, "fp32"), (3, "bf16"))
        }
        found["octavized fp32"] = trained(world, 0, "fp32")
        if world.is_main:
            torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
