"""How is the site built? `make docs`: Sphinx, MyST, and the theme of JAX and Flax.

Nothing is read from the network, while it is built or while it is read.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "_ext"))

project = "jaxrnn"
html_title = "jaxrnn"
author = "the jaxrnn authors"
project_copyright = author
exclude_patterns = ["_ext"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "house",
]

# Pages.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True

# The API reference. What is written in the source is shown: see _ext/house.py.
autodoc_default_options = {
    "members": True,
    "inherited-members": True,
    "special-members": "__call__",
    "member-order": "bysource",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_maximum_signature_line_length = 70
add_module_names = False
toc_object_entries_show_parents = "hide"
modindex_common_prefix = ["jaxrnn."]

# Types of other libraries that signatures name: they have no entry here.
nitpick_ignore_regex = [
    ("py:class", r"(jax|jaxlib|jaxtyping|nn|nnx|np|numpy|optax|os|pathlib)\..+"),
    ("py:class", r"(Float|Int|UInt|Complex)(32|64)?|Inexact|Bool|Shaped"),
    ("py:class", r"Array|Key|PRNGKeyArray|PyTree|NamedSharding"),
]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_navbar_depth": 1,
    "use_download_button": False,
    "navbar_start": [],
    "navbar_persistent": [],
}
html_static_path = ["_static"]
html_css_files = ["jaxrnn.css"]
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = ":not(.highlight-text) > div.highlight > pre"
