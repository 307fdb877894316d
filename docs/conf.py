"""How Sphinx makes the documentation site from this folder. `make docs` runs it; warnings are errors."""

import sys
from pathlib import Path

from liveavatar import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for the extensions _pages and _models

project = "liveavatar"
project_copyright = "the liveavatar authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_copybutton", "_pages", "_models"]
nitpicky = True  # a class that is named and cannot be linked is a warning, but for those that _pages knows
nitpick_ignore = [  # what annotations name, and nobody has to know
    ("py:class", "liveavatar_client.types.Unset"),
    ("py:class", "liveavatar.mock._settings.SettingsKeywords"),
]
default_role = "py:name"  # docstrings say `stop_session` as everybody does: it becomes a link where it can
suppress_warnings = ["misc.highlighting_failure"]  # a console block may run over several lines; it shows well

smartquotes_action = "D"  # dashes alone: quotation marks stay as one would type them

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {
    "members": True,
    "exclude-members": "to_dict, from_dict, additional_properties, additional_keys",  # told once for all models
}
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"  # without a font or a script from elsewhere: the site works offline
html_title = f"liveavatar {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = "$ "
