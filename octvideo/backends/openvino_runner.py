"""Run a network with OpenVINO."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octvideo.errors import UserError

__all__ = ["OpenVinoRunner", "has_bf16"]


def has_bf16() -> bool:
    """Tell whether OpenVINO computes in bfloat16 on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoRunner:
    """Run a network on all threads of PyTorch.

    Every clip is a request of its own: its logits do not depend on other clips. With at least as many clips as threads,
    each thread computes a clip. With fewer, all threads compute one clip at a time.

    Args:
        model: an ``openvino.Model`` for any number of clips.
        precision: ``"f32"`` or ``"bf16"``. By itself OpenVINO takes bfloat16 where the CPU has it, which changes
            probabilities by more than 1e-3.

    Raises:
        UserError: the CPU has no bfloat16.
    """

    def __init__(self, model: Any, precision: str = "f32") -> None:
        if precision == "bf16" and not has_bf16():
            raise UserError("precision bf16: this CPU has none; use f32")
        _, *shape = model.inputs[0].partial_shape
        model.reshape([1, *shape])
        self._model, self._precision = model, precision
        self._threads = torch.get_num_threads()

    def __call__(self, clips: Tensor) -> Tensor:
        inputs = clips.contiguous().cpu().numpy()
        if len(inputs) < self._threads or self._threads == 1:
            return torch.from_numpy(np.concatenate([self._single(clip[None])[0] for clip in inputs]))
        logits: list[Any] = [None] * len(inputs)

        def keep(request: Any, number: int) -> None:
            logits[number] = request.get_output_tensor().data.copy()

        requests = self._parallel
        requests.set_callback(keep)
        try:
            for number, clip in enumerate(inputs):
                requests.start_async(clip[None], number)
        finally:
            requests.wait_all()
        return torch.from_numpy(np.concatenate(logits))

    @cached_property
    def _single(self) -> Any:
        return self._compile(streams=1)

    @cached_property
    def _parallel(self) -> Any:
        import openvino

        return openvino.AsyncInferQueue(self._compile(streams=self._threads), self._threads)

    def _compile(self, streams: int) -> Any:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
        }
        return openvino.Core().compile_model(self._model, "CPU", settings)
