"""The site: ``make docs`` builds it into docs/_build/html."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import octvideo  # noqa: E402

project = "octvideo"
author = "the octvideo developers"
copyright = "the octvideo developers; Apache-2.0"  # noqa: A001
version = release = octvideo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
smartquotes = False  # would make one dash of the two in --option

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

html_theme = "pydata_sphinx_theme"
html_title = f"octvideo {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_sidebars = {"**": ["pages.html"], "index": []}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_center": [],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
}

_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./([^)\s]*)\)")


def _without_outside_links(app: object, name: str, source: list[str]) -> None:
    """Name the files that a page links to outside docs/; the site does not have them."""
    source[0] = _OUTSIDE.sub(lambda link: link[1] if link[2] in link[1] else f"{link[1]} (`{link[2]}`)", source[0])


def setup(app: object) -> None:
    """Register the hook."""
    app.connect("source-read", _without_outside_links)  # type: ignore[attr-defined]
