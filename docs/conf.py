"""How Sphinx builds the site: `make docs`. Offline, and every warning is an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the module that writes the generated pages
sys.path.insert(0, str(Path(__file__).parents[1]))  # the code that is documented, installed or not

from generate import write_generated_pages
from sphinx.application import Sphinx

from matl_scale import __version__

project = "matl_scale"
author = project_copyright = "matl_scale developers"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated", "results"]  # parts of other pages
html_theme = "furo"
html_title = "matl_scale"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

python_maximum_signature_line_length = 80
nitpicky = True
nitpick_ignore_regex = [  # types in signatures: of other libraries, and internal ones that have no entry
    (r"py:class", r".*"),
    (r"py:obj", r"typing\..*"),  # pieces of a signature that Sphinx cannot parse, because a default is `<factory>`
]
default_role = "code"  # docstrings mark names with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of dataclasses are described under "Attributes:" and would be listed twice otherwise


def setup(app: Sphinx) -> None:
    write_generated_pages(Path(app.srcdir) / "generated")
