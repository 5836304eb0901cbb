"""How Sphinx makes the book (`make book`); what goes into it is in reproduce/book."""

project = "FedRevive"
author = "the authors of this reproduction"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reproduce.book.extension"]
html_theme = "furo"
html_title = "FedRevive"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("frames.js", {"defer": "defer"})]
html_copy_source = False
html_show_copyright = False  # each page would say it of nobody; LICENSE and LICENSE-TEXT say whose it is
html_math_renderer = "drawn"
pygments_style, pygments_dark_style = "default", "github-dark"

nb_execution_mode = "off"  # our own runner has executed the notebooks
nb_output_stderr = "remove"  # the progress of runs that ended long ago
nb_code_prompt_show = "Show the solution"  # nothing else is folded
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_dmath_allow_digits = False
myst_dmath_allow_space = False
myst_heading_anchors = 4

default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
