"""KEY VALUE pairs of the commands: on either side of an option, and never ignored."""

from __future__ import annotations

import pytest

from octvideo.cli import complexity, run_net
from octvideo.errors import UserError


@pytest.mark.parametrize("command", [complexity, run_net])
def test_pairs_stand_on_either_side_of_the_configuration(command) -> None:
    """Both pairs are read: the one that is wrong is named."""
    wrong, right = ["DATA.NUM_FRAMES", "0"], ["OCTAVE.ALPHA", "0.5"]
    for before, after in ((wrong, right), (right, wrong)):
        with pytest.raises(UserError, match="DATA.NUM_FRAMES is 0"):
            command.main([*before, "--cfg", "quickstart/oct_i3d.yaml", *after])


def test_a_table_takes_no_pairs() -> None:
    with pytest.raises(UserError, match="OCTAVE.ALPHA: --table has the paper's networks"):
        complexity.main(["--table", "1", "OCTAVE.ALPHA", "0.5"])
