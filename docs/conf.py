"""The site of the documentation: ``make docs`` builds it into build/docs, without a network.

The pages are plain Markdown that reads as well in a repository's browser. Two things are derived here, so that no page
needs marks of its own: the navigation is the list of links on each ``index.md``, and links to the two pages of the
repository's root lead to the pages of the site that hold their text.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from septum.version import __version__  # noqa: E402 -- from this folder, not from where it is installed

project, author, release, version = "Septum", "The Septum developers", __version__, __version__
project_copyright = "The Septum developers, BSD 3-Clause License"

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.intersphinx"]
exclude_patterns = ["_static", "_templates"]
templates_path = ["_templates"]
highlight_language = "none"
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may start with the level that its parent had

# The API from its docstrings. Names of Septum in backticks become links, others stay words.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings describe parameters and results in words
python_maximum_signature_line_length = 88
autodoc_preserve_defaults = True
default_role = "autolink"
numpydoc_show_class_members = False
python_use_unqualified_type_names = True

# Types of other libraries are linked where their indexes can be read; the site must build without a network.
intersphinx_mapping: dict[str, Any] = {}
if os.environ.get("SEPTUM_DOCS_ONLINE"):
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = "Septum"
html_static_path = ["_static"]
html_css_files = ["septum.css"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "Septum", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}

_ROOT_PAGES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}


def _derive(app: Any, docname: str, source: list[str]) -> None:
    """Turn links to the root's pages into links of the site; give an index page its navigation."""
    up = "../" * docname.count("/")
    for name, page in _ROOT_PAGES.items():
        source[0] = source[0].replace(f"](../{up}{name}", f"]({up}{page}")
    source[0] = re.sub(rf"\]\((\.\./{up}[^)]*\.md)\)", r"](path:\1)", source[0])  # pages outside: files to download
    if docname.split("/")[-1] == "index":
        pages = dict.fromkeys(re.findall(r"\]\(([^/()#]+\.md|[^/()#]+/index\.md)\)", source[0]))
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


def _leave_as_words(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Show a name that has no page here as words, as types of other libraries; a name of Septum must exist."""
    name = node["reftarget"]
    if node.get("refdomain") != "py" or (name.startswith("septum.") and not _exists(name)):
        return None  # a warning, and so an error
    return contnode


def _exists(name: str) -> bool:
    """Return True if a dotted name leads to a module, or to a part of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if part not in getattr(found, "model_fields", {}) and not hasattr(found, part):
                return False
            found = getattr(found, part, None)
        return True
    return False


def _skip(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leave out names of types: their signatures would be those of the type behind the name."""
    return True if isinstance(found, types.GenericAlias) else None


def setup(app: Any) -> None:
    """Connect the derived parts."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("source-read", _derive)
    app.connect("missing-reference", _leave_as_words)
