"""Run a network with OpenVINO."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octvideo.errors import UserError

__all__ = ["OpenVinoRunner", "core", "has_bf16"]


@cache
def core() -> Any:
    """Return the only ``openvino.Core`` of this process, with its CPU plugin.

    A plugin sets the thread's alternate signal stack, and puts back the one before when it ends. Of two plugins that do
    not end in reverse order, the second puts back the freed stack of the first: the next signal, as Ctrl-C, would crash
    Python. This one never ends.
    """
    import openvino

    only = openvino.Core()
    only.get_versions("CPU")  # loads the plugin
    return only


def has_bf16() -> bool:
    """Tell whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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
        settings = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
        }
        return core().compile_model(self._model, "CPU", settings)
