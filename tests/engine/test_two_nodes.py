"""Two nodes in separate networks: they train as two processes of one node, and one ends when the other is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from processes import HELPERS, environment, run_script

PORT = "29519"  # in a network where nobody else is


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Names of two network namespaces that are joined by a cable; they and what runs in them are gone afterwards."""
    names = [f"octvideo-{os.getpid()}-{end}" for end in "ab"]
    if shutil.which("ip") is None:
        pytest.skip("needs ip (iproute2)")
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made: {made.stderr.strip()}")
        cable = ["link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1]]
        if (made := ip(*cable)).returncode:
            pytest.skip(f"two namespaces cannot be joined: {made.stderr.strip()}")
        for name, address in zip(names, ("10.0.0.1/24", "10.0.0.2/24"), strict=True):
            for command in ("link set lo up", "link set eth0 up", f"addr add {address} dev eth0"):
                assert not ip("-n", name, *command.split()).returncode
        yield names
    finally:
        for name in names:
            kill(name)
            ip("netns", "del", name)


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


def kill(node: str) -> None:
    """Every process in it, and no other."""
    for pid in ip("netns", "pids", node).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def start(nodes: list[str], script: str, *arguments: str) -> list[subprocess.Popen[str]]:
    """One torchrun in each node, with one process."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--master-addr=10.0.0.1", f"--master-port={PORT}"]
    return [
        subprocess.Popen(
            ["ip", "netns", "exec", node, *torchrun, f"--node-rank={rank}", str(HELPERS / script), *arguments],
            env={**environment(), "GLOO_SOCKET_IFNAME": "eth0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, node in enumerate(nodes)
    ]


def test_two_nodes_match_two_processes(nodes, tmp_path):
    jobs = start(nodes, "fixed_batches.py", str(tmp_path / "nodes.pt"), "2")
    errors = [job.communicate(timeout=240)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    done = run_script(HELPERS / "fixed_batches.py", tmp_path / "alone.pt", "2", processes=2)
    assert done.returncode == 0, done.stderr
    two, one = (torch.load(tmp_path / name, weights_only=True) for name in ("nodes.pt", "alone.pt"))
    assert two["figures"] == one["figures"] and len(two["figures"]) == 5
    assert all(torch.equal(value, one["model"][key]) for key, value in two["model"].items())


def test_node_ends_when_other_is_gone(nodes, tmp_path):
    jobs = start(nodes, "failing_rank.py", str(tmp_path), "waits")
    end = time.monotonic() + 240
    while not (tmp_path / "failed").exists():
        assert jobs[0].poll() is None and time.monotonic() < end, jobs[0].stderr and jobs[0].stderr.read()
        time.sleep(0.1)
    kill(nodes[1])
    _, errors = jobs[0].communicate(timeout=120)  # seconds; it takes a few
    assert jobs[0].returncode != 0 and "error: another process of the run has ended" in errors, errors
    jobs[1].communicate(timeout=240)
