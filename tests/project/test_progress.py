"""The lines of a log that show progress."""

from __future__ import annotations

import pytest

from octvideo.progress import Progress


@pytest.mark.parametrize("total", [1, 49, 50, 51, 99, 100, 101, 7919])
def test_a_log_has_at_most_fifty_lines(total: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("test", total, "videos") as progress:
        for _ in range(total):
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert min(25, total) <= len(lines) <= 50
    assert lines[-1] == f"test {total}/{total}  videos"
