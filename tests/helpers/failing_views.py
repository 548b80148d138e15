"""Evaluate under torchrun where videos cannot be read (``FOLDER``); each rank writes what it saw."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from trainers import MEAN, STD

from octvideo.data import Failure, VideoViews
from octvideo.engine.distributed import distributed
from octvideo.engine.tester import Tester
from octvideo.errors import UserError

# Videos of the list, and whether one can be read. Rank r has r, r + 2, ...
CASES: dict[str, tuple[int, Callable[[int], bool]]] = {
    "one rank": (81, lambda number: number % 2 == 0),
    "all": (1000, lambda number: False),
    "from the middle": (1000, lambda number: number < 200),
    "a missing class": (1000, lambda number: not 800 <= number < 880),
    "few": (1, lambda number: False),
}


def main(folder: Path) -> None:
    """Write for each case: videos that this rank asked for, those that were scored on all ranks, and the error."""
    with distributed("cpu") as world:
        tester = Tester(world, mean=MEAN, std=STD, max_views=4, max_failed=0.1)
        net = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2))
        found: dict[str, list] = {}
        for name, (count, readable) in CASES.items():
            asked: list[int] = []

            def items(count=count, readable=readable, asked=asked) -> Iterator[VideoViews]:
                for number in range(world.rank, count, world.size):
                    asked.append(number)
                    if readable(number):
                        yield VideoViews(torch.zeros(1, 2, 4, 4, 3, dtype=torch.uint8), 0, number, None)
                    else:
                        yield VideoViews(None, 0, number, Failure(f"/{number}.mp4", "no frames"))

            scored, error = -1, ""
            try:
                result = tester.score(net, items())
                scored = len(result.indices)
                tester.check_failures(result)
            except UserError as caught:
                error = str(caught)
            found[name] = [len(asked), scored, error]
        (folder / f"rank{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
