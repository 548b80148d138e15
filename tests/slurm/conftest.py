"""One cluster for all tests here; a test that fails shows its logs."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Unavailable


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running SLURM of two nodes; a machine that cannot have one skips, CI fails."""
    it = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        it.start()
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
    yield it
    it.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The daemons' logs and what the jobs printed, beside the error."""
    report = yield
    if report.failed and isinstance(it := item.funcargs.get("cluster"), Cluster):
        report.sections.append(("SLURM", it.logs()))
        for path in sorted(Path(item.funcargs["tmp_path"]).rglob("*_log.*")):
            report.sections.append((path.name, path.read_text(errors="replace")[-5000:]))
    return report
