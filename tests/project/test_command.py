"""The command line: commands, KEY VALUE pairs, errors and exit codes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import octvideo
from octvideo.cli import complexity, run, run_net
from octvideo.cli.main import COMMANDS, main
from octvideo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"octvideo {octvideo.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)
    assert main([]) == 2


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["trian"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "trian" in captured.err and "run-net" in captured.err


@pytest.mark.parametrize("name", sorted({*COMMANDS, *(name.replace("-", "_") for name in COMMANDS)}))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: octvideo {name.replace('_', '-')} " in capsys.readouterr().out


def test_env_names_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["torch"] == importlib.metadata.version("torch") and rows["av"] == importlib.metadata.version("av")
    assert "pyav" in rows["decoders"] and platform.python_version() in rows["Python"]
    assert {"openvino", "ffmpeg", "CPU", "GPU"} <= rows.keys()


def test_python_m_octvideo_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "octvideo", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"octvideo {octvideo.__version__}\n")


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("| true", 141, ""),  # as where SIGPIPE ends a program: not all was said, so it is not 0
        ("-u | true", 141, ""),
        (">/dev/full", 2, "error: the output cannot be written (No space left on device); send it to another place\n"),
        (">&-", 0, ""),
    ],
)
def test_lost_output_sets_the_exit_code(output: str, code: int, message: str) -> None:
    unbuffered, output = ("1", output[3:]) if output.startswith("-u") else ("", output)
    command = f"set -o pipefail; (sleep 0.3; exec '{sys.executable}' -m octvideo --help) {output}"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("a\nb.mp4: no such file"), "error: a\\nb.mp4: no such file\n"),
        (UserError("Caught UserError\nTraceback\noctvideo.errors.UserError: a.mp4: bad\n"), "error: a.mp4: bad\n"),
        (MemoryError("Unable to allocate 9 TiB"), "error: not enough memory (Unable to allocate 9 TiB): use smaller"),
        (RuntimeError("CUDA out of memory. Tried to"), "error: not enough memory (CUDA out of memory. Tried to): use"),
    ],
)
def test_user_errors_are_one_line(error: Exception, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: object) -> int:
        raise error

    assert run(command) == 2
    text = capsys.readouterr().err
    assert text.startswith(message) and text.count("\n") == 1


def test_other_errors_keep_their_traceback() -> None:
    for error in (RuntimeError("shapes differ"), BrokenPipeError("between processes")):

        def command(_: object, error: Exception = error) -> int:
            raise error

        with pytest.raises(type(error)):
            run(command)


def test_name_of_another_encoding_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda _: print("a\udcff.mp4")) == 0
    assert capsys.readouterr().out == "a\\udcff.mp4\n"


def test_line_on_stderr_is_one_write() -> None:
    """Else two ranks that share a terminal tear each other's lines apart: torchrun starts them with ``python -u``."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps writes apart
    with reader, writer:
        command = [sys.executable, "-u", "-m", "octvideo", "run-net", "--cfg", "missing.yaml"]
        assert subprocess.run(command, stderr=writer, cwd=ROOT).returncode == 2
        writer.close()
        writes = list(iter(lambda: reader.recv(1 << 16), b""))
    assert len(writes) == 1 and writes[0].startswith(b"error: ") and writes[0].endswith(b"\n")


def test_wrong_config_is_reported_before_torch() -> None:
    code = (
        "import sys; from octvideo.cli import run; from octvideo.cli.main import main; "
        "code = run(main, ['run-net', '--cfg', 'nonexistent.yaml']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "nonexistent.yaml" in done.stderr


def test_public_names_are_lazy() -> None:
    code = "import sys, octvideo; assert 'torch' not in sys.modules; [getattr(octvideo, n) for n in octvideo.__all__]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="octav_ize"):
        octvideo.octav_ize  # noqa: B018


@pytest.mark.parametrize("command", [complexity, run_net])
def test_pairs_may_come_before_or_after_cfg(command) -> None:
    """Both pairs are read: the one that is wrong is named."""
    wrong, right = ["DATA.NUM_FRAMES", "0"], ["OCTAVE.ALPHA", "0.5"]
    for before, after in ((wrong, right), (right, wrong)):
        with pytest.raises(UserError, match="DATA.NUM_FRAMES is 0"):
            command.main([*before, "--cfg", "quickstart/oct_i3d.yaml", *after])


def test_table_refuses_pairs() -> None:
    with pytest.raises(UserError, match="OCTAVE.ALPHA: --table has the paper's networks"):
        complexity.main(["--table", "1", "OCTAVE.ALPHA", "0.5"])
