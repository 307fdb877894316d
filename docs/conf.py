"""Configuration of Sphinx, which builds the documentation site from this folder: `make docs`. Warnings are errors."""

import sys
from pathlib import Path

from liveavatar import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for the extensions _pages and _models

project = "liveavatar"
project_copyright = "the liveavatar authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "sphinx_copybutton", "_pages", "_models"]
nitpicky = True  # warn of a class that is named and cannot be linked
# Names in annotations that have no page: readers do not need them.
nitpick_ignore = [("py:class", "liveavatar.mock._settings.SettingsKeywords")]
nitpick_ignore_regex = [("py:class", r"liveavatar_client\..*")]
default_role = "py:name"  # `stop_session` in a docstring becomes a link
suppress_warnings = ["misc.highlighting_failure"]  # console blocks with commands of several lines

smartquotes_action = "D"  # convert dashes only

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {
    "members": True,
    "exclude-members": "to_dict, from_dict, additional_properties, additional_keys",  # on the models page
}
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"  # loads no fonts or scripts from other hosts, so the site works offline
html_title = f"liveavatar {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = "$ "
