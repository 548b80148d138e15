"""One cluster for all tests in this folder; a failed test shows its logs."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Unavailable


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a SLURM of two nodes; where it cannot start, skip, or fail in CI."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
    yield cluster
    cluster.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the daemons' logs and the jobs' output to the report of a failed test."""
    report = yield
    if report.failed and isinstance(cluster := item.funcargs.get("cluster"), Cluster):
        report.sections.append(("SLURM", cluster.logs()))
        for path in sorted(Path(item.funcargs["tmp_path"]).rglob("*_log.*")):
            report.sections.append((path.name, path.read_text(errors="replace")[-5000:]))
    return report
