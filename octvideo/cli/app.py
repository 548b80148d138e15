"""``demo/app.py``: predict clips and the camera in the browser."""

from __future__ import annotations

import argparse
import math
import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from octvideo.cli.arguments import positive_int
from octvideo.cli.network_options import add_model_arguments, describe
from octvideo.errors import UserError, reason_of

__all__ = ["main"]

_DEFAULT_MODEL = "oct_i3d_small"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: gradio is missing, the port is in use, bad weights or configuration.
    """
    parser = argparse.ArgumentParser(prog="octvideo app", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=_port, default=7860)
    add_model_arguments(parser)
    arguments = parser.parse_args(argv)
    if find_spec("gradio") is None:
        raise UserError("gradio is not installed; install it with: pip install 'octvideo[app]'")
    _check_address(arguments.host, arguments.port)
    # Torch and Gradio take seconds to import: --help and wrong arguments come first.
    from octvideo.app.networks import Networks
    from octvideo.app.page import build_page, serve
    from octvideo.inference import Predictor

    create = partial(
        Predictor, backend=arguments.backend, device=arguments.device, views=arguments.views, videos=math.inf
    )
    chosen = {"checkpoint": arguments.checkpoint, "cfg": arguments.cfg, "model": arguments.model}
    if not any(chosen.values()):
        chosen["model"] = _DEFAULT_MODEL
    first = Path(arguments.checkpoint or chosen["model"] or arguments.cfg).name
    networks = Networks(create, first, {**chosen, "threshold": arguments.threshold})
    predictor = networks.predictor(first)
    print(f"{describe(predictor)}\nbackend: {predictor.backend}", file=sys.stderr)
    page = build_page(networks)
    serve(page, arguments.host, arguments.port)
    print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0


def _port(text: str) -> int:
    value = positive_int(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"{value} must be at most 65535")
    return value


def _check_address(host: str, port: int) -> None:
    """Check that the page can be served there, before the network is loaded."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot be used ({reason_of(error)}); choose another") from None
