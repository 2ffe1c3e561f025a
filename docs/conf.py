"""How Sphinx builds the docs site (`make docs`)."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import docs_reference

project = "sisa-scale"
project_copyright = "the sisa-scale authors"
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["README.md"]  # part of index.rst
html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_static_path, html_css_files = ["_static"], ["site.css"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # links to headings, as on GitHub
pygments_style, pygments_dark_style = "friendly", "monokai"


def setup(app: Sphinx) -> None:
    """Write the generated pages before the others are read."""
    app.connect("builder-inited", lambda app: docs_reference.write(Path(app.srcdir) / "reference"))
