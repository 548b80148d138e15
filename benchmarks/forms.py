#!/usr/bin/env python
"""Measure the forms in which an octave convolution can be exported to OpenVINO: the reason for the one that is.

- separate: four convolutions; the sums go into two of them. This is what ``octvideo.octave.conv`` exports.
- joined: one convolution for L->H and L->L, whose output is divided; what it runs in PyTorch.
- concatenated: one convolution for H->L and L->L, on the pooled high and the low map together.

Every form is compiled twice: the same network differs from itself by where its memory lies.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

from octvideo.backends.openvino_runner import OpenVinoRunner  # noqa: E402
from octvideo.backends.runners import openvino_model  # noqa: E402
from octvideo.benchmarking.timing import hardware, interleaved  # noqa: E402
from octvideo.config import load_cfg  # noqa: E402
from octvideo.models import build_model  # noqa: E402
from octvideo.octave import OctaveTensor, OctConv3d, conv  # noqa: E402
from octvideo.octave.functional import upsample  # noqa: E402

ALPHAS = ("0.125x16", "0.25", "0.5")
_forward = OctConv3d.forward


def _concatenated(layer: OctConv3d, x: Any) -> Any:
    groups = layer.in_high, layer.in_low, layer.out_high, layer.out_low
    if not all(groups) or layer.groups > 1:
        return _forward(layer, x)
    high, low = x
    sees_high, sees_low = layer._columns()
    bias_high, bias_low = layer._biases()
    strided = layer._strided()
    pooled, _ = layer._shrink(high, strided)
    y_high = layer._conv(pooled, sees_high[: layer.out_high], bias_high, 1)
    both = torch.cat([layer._shrink(pooled, 2)[0], layer._shrink(low, strided)[0]], 1)
    y_low = layer._conv(both, layer.weight[layer.out_high :], bias_low, 1)
    z_high = layer._conv(low, sees_low[: layer.out_high], None, 1)
    return OctaveTensor(y_high + (z_high if strided == 2 else upsample(z_high, y_high.shape[-2:])), y_low)


def _models(alpha: str) -> tuple[dict[str, Any], torch.Tensor]:
    value, _, multiple = alpha.partition("x")
    cfg = load_cfg("oct_i3d_k400.yaml", ["OCTAVE.ALPHA", value, "OCTAVE.MULTIPLE", multiple or "1"])
    shape = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP, cfg.DATA.TRAIN_CROP)
    torch.manual_seed(0)
    network = build_model(cfg).eval()
    made = {"separate": openvino_model(network, shape)}
    exporting = conv.exporting
    try:
        conv.exporting = lambda: False  # as in PyTorch
        made["joined"] = openvino_model(network, shape)
    finally:
        conv.exporting = exporting
    try:
        OctConv3d.forward = _concatenated
        made["concatenated"] = openvino_model(network, shape)
    finally:
        OctConv3d.forward = _forward
    return made, torch.randn(1, 3, *shape)


def _processor_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(alpha: str, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of a clip, of the two copies of each form."""
    models, clip = _models(alpha)
    copies = {f"{form} {copy}": OpenVinoRunner(model.clone()) for copy in (1, 2) for form, model in models.items()}
    logits = [run(clip) for run in copies.values()]
    assert all(torch.allclose(other, logits[0], rtol=1e-3, atol=1e-4) for other in logits)
    works = {name: partial(_processor_seconds, partial(run, clip)) for name, run in copies.items()}
    seconds = interleaved(works, rounds)
    return {form: [1000 * seconds[f"{form} {copy}"] for copy in (1, 2)] for form in models}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"benchmark": "forms", "hardware": hardware(), "rounds": args.rounds, "ms": {}}
    for alpha in ALPHAS:
        result["ms"][alpha] = measure(alpha, args.rounds)
        print(alpha, result["ms"][alpha], flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
