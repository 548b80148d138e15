"""Fonts for class names in any script: matplotlib's own, then those of the system."""

from __future__ import annotations

import sys
from functools import cache
from typing import NamedTuple

__all__ = ["Font", "font_for"]

# First what looks like the rest of the picture; then the usual fonts of Linux, macOS and Windows with many letters.
_PREFERRED = (
    *("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Microsoft YaHei", "Malgun Gothic"),
)
_BOXES = ("Last Resort High-Efficiency", "Last Resort")  # these draw the name of the script in place of the letter


class Font(NamedTuple):
    """Name and file of a font."""

    name: str
    file: str


@cache
def font_for(text: str) -> Font:
    """Return the first font that has all letters of a text; else one with the most, and warn of the others once."""
    letters = frozenset(letter for letter in text if letter.isprintable() and not letter.isspace())
    best, missing = _fonts()[0], letters
    for font in _fonts():
        lacking = _lacking(font, letters)
        if len(lacking) < len(missing):
            best, missing = font, lacking
        if not missing:
            break
    if missing:
        _warn("".join(sorted(missing)))
    return best


@cache
def _fonts() -> list[Font]:
    """Return the upright fonts of matplotlib and of the system, the preferred ones first."""
    from matplotlib.font_manager import fontManager

    def place(font: Font) -> int:
        return _PREFERRED.index(font.name) if font.name in _PREFERRED else len(_PREFERRED)

    plain = {
        Font(entry.name, str(entry.fname))
        for entry in fontManager.ttflist
        if (entry.style, entry.stretch) == ("normal", "normal")
        and entry.weight in (400, 500)
        and entry.name not in _BOXES
    }
    return sorted(plain, key=lambda font: (place(font), font))


def _lacking(font: Font, letters: frozenset[str]) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        found = FT2Font(font.file)
    except (OSError, RuntimeError):  # gone since matplotlib has listed it, or damaged
        return letters
    return frozenset(letter for letter in letters if not found.get_char_index(ord(letter)))


@cache
def _warn(letters: str) -> None:
    print(f"warning: no font has {letters}: install one that does, such as fonts-noto-cjk", file=sys.stderr)
