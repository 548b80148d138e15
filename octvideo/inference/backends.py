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

from octvideo.errors import UserError
from octvideo.files import atomic_write, discard, replace_durably
from octvideo.octave import fold_batch_norm

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "BACKENDS",
    "FORMATS",
    "TOLERANCE",
    "Runner",
    "create_runner",
    "load_exported",
    "relative_difference",
    "save_exported",
]

Runner = Callable[[Tensor], Tensor]
BACKENDS = ("torch", "openvino", "onnxruntime")
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}  # and the suffixes of their files
TOLERANCE = 1e-4  # of ``relative_difference``: float32 rounding

_EXTRA = "it is not installed; install it with: pip install 'octvideo[export]'"


def create_runner(backend: str, model: nn.Module, clip_shape: Sequence[int], device: torch.device) -> Runner:
    """Prepare a network to run.

    Args:
        backend: one of ``BACKENDS``. OpenVINO and ONNX Runtime run on the CPU.
        model: the network, in evaluation mode.
        clip_shape: (T, H, W) of the clips.
        device: of the torch backend.

    Raises:
        UserError: the backend is unknown or not installed, or the network cannot be exported for it.
    """
    model = fold_batch_norm(model)
    if backend == "torch":
        return _torch_runner(model.to(device), device)
    if backend == "onnxruntime":
        _require("onnxruntime", "onnx", "onnxscript")
        program = _onnx_program(_export(model, clip_shape), clip_shape)
        return _onnx_runner(program.model_proto.SerializeToString())
    if backend == "openvino":
        _require("openvino")
        return _openvino_runner(_openvino_model(_export(model, clip_shape), clip_shape))
    raise UserError(f"--backend {backend}: it must be one of {', '.join(BACKENDS)}")


def save_exported(model: nn.Module, clip_shape: Sequence[int], format: str, path: Path) -> None:
    """Export a network in evaluation mode to a file. OpenVINO also writes the weights to a ``.bin`` next to it.

    Raises:
        UserError: unknown format, wrong suffix, missing package, unwritable place, or a failed export.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: it must be one of {', '.join(FORMATS)}")
    if path.suffix != FORMATS[format]:
        raise UserError(f"--output {path}: a file of format {format} must end in {FORMATS[format]}")
    if format == "onnx":
        _require("onnx", "onnxscript", "onnxruntime")
    elif format == "openvino":
        _require("openvino")
    with atomic_write(path, parents=True) as partial:
        program = _export(fold_batch_norm(model), clip_shape)
        if format == "onnx":
            _onnx_program(program, clip_shape).save(str(partial))
        elif format == "openvino":
            _save_openvino(_openvino_model(program, clip_shape), partial, path.with_suffix(".bin"))
        else:
            buffer = io.BytesIO()  # on a full disk torch's own writer aborts Python
            torch.export.save(program, buffer)
            partial.write_bytes(buffer.getbuffer())


def _save_openvino(model: Any, partial: Path, weights: Path) -> None:
    """Write the graph to ``partial`` and its weights to ``weights``."""
    import openvino

    written = partial.with_suffix(".bin")
    try:
        openvino.save_model(model, partial, compress_to_fp16=False)
        replace_durably(written, weights)
    except RuntimeError as error:
        raise OSError(" ".join(str(error).split())) from None
    finally:
        discard(written)


def load_exported(format: str, path: Path) -> Runner:
    """Load a file that ``save_exported`` wrote."""
    if format == "onnx":
        return _onnx_runner(str(path))
    if format == "openvino":
        import openvino

        return _openvino_runner(openvino.Core().read_model(path))
    return _torch_runner(torch.export.load(path).module(), torch.device("cpu"))


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, relative to the largest expected one; nan if one is nan."""
    difference = (logits - expected).abs().max()
    return (difference / expected.abs().max()).item() if difference else 0.0


def _torch_runner(model: nn.Module | Callable[[Tensor], Tensor], device: torch.device) -> Runner:
    def run(clips: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(clips.to(device))
            return logits.float().cpu()

    return run


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


def _openvino_runner(model: Any) -> Runner:
    import openvino

    # Without the hint newer CPUs compute in bfloat16, which changes probabilities by more than 1e-3.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(clips: Tensor) -> Tensor:
        return torch.from_numpy(compiled(clips.contiguous().cpu().numpy())[0].copy())

    return run


def _export(model: nn.Module, clip_shape: Sequence[int]) -> ExportedProgram:
    """Export the graph of a network with a free number of clips."""
    # Two clips: the exporter treats sizes of 1 as constants.
    example = torch.zeros(2, 3, *clip_shape)
    views = torch.export.Dim("views", min=1, max=4096)
    with _quiet(), torch.no_grad():
        try:
            return torch.export.export(model.cpu(), (example,), dynamic_shapes=({0: views},))
        except Exception as error:  # the exporter raises many kinds of exceptions
            raise UserError(f"the network cannot be exported: {_first_line(error)}; use --backend torch") from error


def _onnx_program(program: ExportedProgram, clip_shape: Sequence[int]) -> Any:
    example = torch.zeros(2, 3, *clip_shape)
    with _quiet():
        try:
            return torch.onnx.export(
                program, (example,), dynamo=True, input_names=["clips"], output_names=["logits"], verbose=False
            )
        except Exception as error:
            raise UserError(f"the network cannot be exported to ONNX: {_first_line(error)}") from error


def _openvino_model(program: ExportedProgram, clip_shape: Sequence[int]) -> Any:
    import openvino

    with _quiet():
        try:
            model = openvino.convert_model(program)
        except Exception as error:
            raise UserError(f"the network cannot be exported to OpenVINO: {_first_line(error)}") from error
    model.reshape([-1, 3, *clip_shape])
    model.inputs[0].get_tensor().set_names({"clips"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise UserError(f"{package} is needed for this: {_EXTRA}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
