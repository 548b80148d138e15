"""Run a network with PyTorch, ONNX Runtime or OpenVINO, and export it to files.

All backends take float32 clips ``(N, 3, T, H, W)`` with any N and return logits ``(N, classes)``. An exported network
has fixed T, H and W. Exports start from the graph of ``torch.export``; running one writes nothing to disk. Batch norms
are folded first (``octvideo.octave.fuse``). On a CPU all backends use ``torch.get_num_threads()`` threads.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from octvideo.backends.cache import cache_folder, keep_network, read_network
from octvideo.backends.openvino_runner import OpenVinoRunner, core
from octvideo.errors import UserError
from octvideo.files import atomic_write, discard, replace_durably
from octvideo.models.classifier import classifier_features
from octvideo.octave import fold_batch_norm

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "BACKENDS",
    "FORMATS",
    "TOLERANCE",
    "Runner",
    "TorchRunner",
    "create_runner",
    "load_exported",
    "openvino_file",
    "openvino_model",
    "quiet",
    "relative_difference",
    "save_exported",
]

Runner = Callable[[Tensor], Tensor]
BACKENDS = ("torch", "openvino", "onnxruntime")
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}  # and the suffixes of their files
TOLERANCE = 1e-4  # of ``relative_difference``: float32 rounding


def create_runner(
    backend: str, model: nn.Module, clip_shape: Sequence[int], device: torch.device, *, key: str = ""
) -> Runner:
    """Prepare a network to run.

    Args:
        backend: one of ``BACKENDS``. OpenVINO and ONNX Runtime run on the CPU.
        model: the network, in evaluation mode.
        clip_shape: (T, H, W) of the clips.
        device: of the torch backend.
        key: the network's name in the cache (``octvideo/backends/cache.py``); "": OpenVINO converts it anew.

    Raises:
        UserError: the backend is unknown or not installed, or the network cannot be exported for it.
    """
    model = fold_batch_norm(model)
    if backend == "torch":
        return TorchRunner(model.to(device), device)
    if backend == "onnxruntime":
        _require("onnxruntime", "onnx", "onnxscript")
        program = _onnx_program(_export(model, clip_shape), clip_shape)
        return _onnx_runner(program.model_proto.SerializeToString())
    if backend == "openvino":
        _require("openvino")
        return OpenVinoRunner(_cached_openvino_model(model, clip_shape, key))
    raise UserError(f"--backend {backend}: it must be one of {', '.join(BACKENDS)}")


def save_exported(model: nn.Module, clip_shape: Sequence[int], format: str, path: Path) -> None:
    """Export a network in evaluation mode to a file. OpenVINO also writes the weights to a ``.bin`` next to it.

    Raises:
        UserError: unknown format, wrong suffix, missing package, unwritable place, or a failed export.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: it must be one of {', '.join(FORMATS)}")
    if format == "openvino":
        with openvino_file(path) as save:
            save(openvino_model(model, clip_shape))
        return
    _check_suffix(format, path)
    if format == "onnx":
        _require("onnx", "onnxscript", "onnxruntime")
    with atomic_write(path, parents=True) as partial:
        program = _export(fold_batch_norm(model), clip_shape)
        if format == "onnx":
            _onnx_program(program, clip_shape).save(str(partial))
        else:
            buffer = io.BytesIO()  # on a full disk torch's own writer aborts Python
            torch.export.save(program, buffer)
            partial.write_bytes(buffer.getbuffer())


def _check_suffix(format: str, path: Path) -> None:
    if path.suffix != FORMATS[format]:
        raise UserError(f"--output {path}: a file of format {format} must end in {FORMATS[format]}")


def openvino_model(model: nn.Module, clip_shape: Sequence[int]) -> Any:
    """Convert a network in evaluation mode to an ``openvino.Model`` for any number of clips."""
    return _openvino_model(_export(fold_batch_norm(model), clip_shape), clip_shape)


@contextlib.contextmanager
def openvino_file(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yield what writes an ``openvino.Model`` to ``path``, and its weights to a ``.bin`` next to it.

    Raises:
        UserError: the name does not end in ``.xml``, or the place is not writable: before the work, not after it.
    """
    _check_suffix("openvino", path)
    _require("openvino")
    with atomic_write(path, parents=True) as partial:
        import openvino

        written = partial.with_suffix(".bin")

        def save(model: Any) -> None:
            try:
                openvino.save_model(model, partial, compress_to_fp16=False)
                replace_durably(written, path.with_suffix(".bin"))
            except RuntimeError as error:
                raise OSError(" ".join(str(error).split())) from None

        try:
            yield save
        finally:
            discard(written)


def load_exported(format: str, path: Path) -> Runner:
    """Load a file that ``save_exported`` wrote."""
    if format == "onnx":
        return _onnx_runner(str(path))
    if format == "openvino":
        return OpenVinoRunner(core().read_model(path))
    return TorchRunner(torch.export.load(path).module(), torch.device("cpu"))


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, relative to the largest expected one; nan if one is nan."""
    difference = (logits - expected).abs().max()
    return (difference / expected.abs().max()).item() if difference else 0.0


class TorchRunner:
    """Run a network with PyTorch.

    Args:
        model: in evaluation mode, on the device.
        device: for the clips.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        logits: Tensor = self._model(clips.to(self._device))
        return logits.float().cpu()

    @torch.inference_mode()
    def features(self, clips: Tensor) -> Tensor:
        """Return the vectors before the classifier, ``(N, D)``; see ``classifier_features``."""
        return classifier_features(self._model, clips.to(self._device)).float().cpu()


def _onnx_runner(source: str | bytes) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(clips: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: clips.contiguous().cpu().numpy()})[0])

    return run


def _export(model: nn.Module, clip_shape: Sequence[int]) -> ExportedProgram:
    """Export the graph of a network with a free number of clips."""
    # Two clips: the exporter treats sizes of 1 as constants.
    example = torch.zeros(2, 3, *clip_shape)
    views = torch.export.Dim("views", min=1, max=4096)
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(model.cpu(), (example,), dynamic_shapes=({0: views},))
        except Exception as error:  # the exporter raises many kinds of exceptions
            raise UserError(f"the network cannot be exported: {_first_line(error)}; use --backend torch") from error


def _onnx_program(program: ExportedProgram, clip_shape: Sequence[int]) -> Any:
    example = torch.zeros(2, 3, *clip_shape)
    with quiet():
        try:
            return torch.onnx.export(
                program, (example,), dynamo=True, input_names=["clips"], output_names=["logits"], verbose=False
            )
        except Exception as error:
            raise UserError(f"the network cannot be exported to ONNX: {_first_line(error)}") from error


def _cached_openvino_model(model: nn.Module, clip_shape: Sequence[int], key: str) -> Any:
    """Return the network from the cache, or convert and keep it."""
    cached = read_network(key) if key else None
    if cached is not None:
        return cached
    converted = _openvino_model(_export(model, clip_shape), clip_shape)
    if key and (reason := keep_network(key, converted)):
        print(f"warning: {cache_folder()}: the converted network cannot be kept ({reason})", file=sys.stderr)
    return converted


def _openvino_model(program: ExportedProgram, clip_shape: Sequence[int]) -> Any:
    from octvideo.backends.to_openvino import convert

    with quiet():
        try:
            model = convert(program)
        except Exception as error:
            raise UserError(f"the network cannot be exported to OpenVINO: {_first_line(error)}") from error
    model.reshape([-1, 3, *clip_shape])
    model.inputs[0].get_tensor().set_names({"clips"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def _require(*packages: str) -> None:
    wanted = "openvino" if packages == ("openvino",) else "'octvideo[export]'"
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise UserError(
                f"{package} is needed for this: it is not installed; install it with: pip install {wanted}"
            ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence exporters, which print progress and internal warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
