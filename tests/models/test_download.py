"""Checkpoints by URL are downloaded once, checked and complete. The server is local."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

from octvideo.errors import UserError
from octvideo.models.checkpoints import load_weights, local_file

Site = tuple[str, dict[str, bytes], list[str]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server's address, its files by path, and the requested paths; torch's cache is an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = files.get(self.path.partition("?")[0])
            self.send_response(404 if content is None else 200)
            cut = self.path.startswith("/cut")
            self.send_header("Content-Length", str(len(content or b"") + (5 if cut else 0)))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files, asked
    server.shutdown()
    server.server_close()
    thread.join()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_checkpoint_is_downloaded_once(site: Site, tmp_path: Path) -> None:
    address, files, asked = site
    net, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({"model_state": net.state_dict()}, tmp_path / "net.pyth")
    files["/zoo/a/net.pyth"] = files["/zoo/b/net.pyth"] = (tmp_path / "net.pyth").read_bytes()
    for _ in range(2):
        load_weights(twin, f"{address}/zoo/a/net.pyth", strict=True)
    assert torch.equal(twin.weight, net.weight) and asked == ["/zoo/a/net.pyth"]
    # Another folder of the server is another file.
    assert local_file(f"{address}/zoo/b/net.pyth") != local_file(f"{address}/zoo/a/net.pyth")
    assert cached(tmp_path) == ["net.pyth", "net.pyth"]
    assert local_file("folder/net.pyth") == Path("folder/net.pyth")


def test_hash_is_checked(site: Site, tmp_path: Path) -> None:
    address, files, asked = site
    digest = hashlib.sha256(b"weights").hexdigest()
    good, bad = f"/net-{digest[:8]}.pth", "/net-0123abcd.pth"
    for path in (good, bad, "/net-20220818.pth", "/plain.pth"):
        files[path] = b"weights"
    assert local_file(address + good).read_bytes() == b"weights"
    with pytest.raises(UserError, match=rf"net-0123abcd\.pth: the SHA-256 is {digest}"):
        local_file(address + bad)
    assert local_file(f"{address}/net-20220818.pth").is_file()  # a date, not a hash
    assert local_file(f"{address}/plain.pth#sha256={digest}").is_file()
    with pytest.raises(UserError, match="remove the file"):
        local_file(f"{address}/plain.pth#sha256={'0' * 64}")
    with pytest.raises(UserError, match="SHA-256 is"):
        local_file(f"{address}/plain.pth?x#sha256={'0' * 64}")
    assert cached(tmp_path) == sorted([good[1:], "net-20220818.pth", "plain.pth"])
    assert len(asked) == 5


def test_failed_download_leaves_nothing(site: Site, tmp_path: Path) -> None:
    address, files, _ = site
    files["/cut/net.pth"] = b"wei"
    with pytest.raises(UserError, match=r"net\.pth: .*(3 of 8 bytes|IncompleteRead|cannot be downloaded)"):
        local_file(f"{address}/cut/net.pth")
    with pytest.raises(UserError, match=r"none\.pth: cannot be downloaded \(HTTP 404\)"):
        local_file(f"{address}/none.pth")
    with pytest.raises(UserError, match="cannot be downloaded"):
        local_file("http://127.0.0.1:1/net.pth")
    for wrong in ("http://127.0.0.1:port/net.pth", "http://[bad/net.pth", f"{address}/my net.pth"):
        with pytest.raises(UserError, match="cannot be downloaded|not an address"):
            local_file(wrong)
    assert not cached(tmp_path)
