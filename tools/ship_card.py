"""Write the card of the networks that ship, from the results of ``ship.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octvideo.engine.metrics import wilson_interval
from octvideo.files import write_text

__all__ = ["write_card"]

_KINDS = {
    "weizmann": "Weizmann, unseen persons",
    "surveillance": "surveillance cameras, unseen sources",
    "actions": "other actions (archery, cooking, make-up, cycling, ...)",
    "asl_gestures": "sign language",
    "formats": "test pictures, odd formats",
}


def write_card(results: dict[str, Any], path: Path) -> None:
    """Write the card."""
    networks = results["networks"]
    text = _HEAD.format(files=" and ".join(f"{name}_weizmann.pt" for name in networks))
    text += f"\n{_RECIPE}"
    measured = _MEASURED.format(seeds=len(results["seeds"]), folds=len(results["folds"]))
    text += f'\n## Accuracy and "not sure"\n\n{measured}\n'
    for name, network in networks.items():
        confidence = network["confidence"]
        text += f"\n### {name}_weizmann.pt: threshold {confidence['threshold']}\n\n"
        text += "| clips | seed | N | sure | right | right where sure |\n|---|---|---|---|---|---|\n"
        for kind, title in _KINDS.items():
            text += "".join(
                _row(title, seed, of_seed["kinds"][kind], known=kind == "weizmann")
                for seed, of_seed in network["seeds"].items()
                if kind in of_seed["kinds"]
            )
        shipped = network["shipped"]
        text += (
            f"\nThe network that ships, which has seen all persons and all surveillance cameras, is sure of "
            f"{len(shipped['sure'])} of {shipped['clips']} clips of the last three rows"
        )
        text += f": {', '.join(shipped['sure'])}.\n" if shipped["sure"] else ".\n"
    write_text(path, text + _LIMITS)


def _row(title: str, seed: Any, count: dict[str, int], *, known: bool) -> str:
    right = (
        [_share(count["correct"], count["clips"]), _share(count["sure_correct"], count["sure"])] if known else ["", ""]
    )
    cells = [title, str(seed), str(count["clips"]), _share(count["sure"], count["clips"]), *right]
    return f"| {' | '.join(cells)} |\n"


def _share(part: int, total: int) -> str:
    """Return a percentage with Wilson's 95 % interval."""
    if not total:
        return "-"
    low, high = wilson_interval(part, total)
    return f"{100 * part / total:.1f} % ({low:.1f}-{high:.1f})"


_HEAD = """# {files}

Small networks for ten actions: bend, jack (jumping jack), jump, pjump (jump in place), run, side (gallop sideways),
skip, walk, wave1 (one hand), wave2 (both hands). `oct_i3d` is an Oct-I3D with alpha 0.5, low channels in
multiples of 16, and `i3d` its vanilla twin. Each has 1.1 M parameters, 2.4 MB in half precision.
`octvideo predict` uses `oct_i3d_weizmann.pt` where no checkpoint is given. `tools/ship.py` measured them and wrote this
page. Do not edit it.
"""

_RECIPE = """## Training

- **Actions**: the 90 clips of the Weizmann set (Blank et al., ICCV 2005; Gorelick et al., TPAMI 2007): nine persons,
  ten actions, 180x144 at 25 fps, one static outdoor scene. The set is free for research and is not part of this
  project.
- **Recipe**: `configs/weizmann/`, from scratch, 900 steps of 16 clips of 8x96x96 (every 4th frame).
- **Other things**: an eleventh class, `other`, which is never an answer. It is one more row of the finished network's
  classifier (`octvideo/inference/other_class.py`), so the network ranks its ten classes as before.
  `data_tools/other_clips.py` makes the clips for it: from 300 clips of surveillance cameras (as they are,
  altered, as still pictures), rendered figures and moving shapes. Others are Weizmann clips: frozen, turned, in
  shuffled tiles, without the person.
"""

_MEASURED = """{folds} of three folds, {seeds} seed(s), 10 views. Each fold is tested on three persons and on a third
of the surveillance sources, which its network has not seen. No network has seen any clip of the last three rows,
which count each clip once per fold. A prediction is sure if the probability of its class reaches a threshold. A
fold's threshold comes from the persons and cameras of the other folds: 97 % of the persons' clips stay sure, and more
if the cameras' clips are far below. The threshold that ships comes from all of them. In brackets: 95 % intervals."""

_LIMITS = """
## Limits

- One scene, one camera, one person, seen from the side or the front. Part of what the networks know is this scene:
  the same actions elsewhere are mostly "not sure". Nothing here measures how often.
- Other things were tested with surveillance cameras and with few clips of other kinds. A clip that resembles the
  scene may get a sure and wrong label.
- They are there to show that everything works. Train your own for use. `docs/own_videos.md` says how to give it
  the class `other`.
"""
