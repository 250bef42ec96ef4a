"""How Sphinx builds the pages: `make docs`. Warnings are errors there."""

import os
import sys
from pathlib import Path

import softcore

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "_ext"))
os.environ["TQDM_DISABLE"] = "1"  # the examples' progress would be printed line by line

project = "softcore"
author = "the softcore developers"
copyright = author
version = release = softcore.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
exclude_patterns = ["_build", "generated", "gallery/*.py", "gallery/*.ipynb"]
default_role = "autolink"
nitpicky = True
# What stands in the place of a type, in annotations that name it under TYPE_CHECKING alone.
nitpick_ignore_regex = [("py:.*", name) for name in ("ArrayLike", "NDArray", "DTypeLike", "np.*", "numpy.*", "scipy.*", "Any", "Array")]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
templates_path = ["_templates"]
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# --- Appearance --------------------------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"softcore {version}"
html_static_path = ["_static"]
html_css_files = ["softcore.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # the theme's script asks for one
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"quickstart": [], "porting": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# --- Pictures ----------------------------------------------------------------------------------------------------------------

plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("svg", 100)]
plot_rcparams = {
    "font.size": 10,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "path",
}
plot_apply_rcparams = True
plot_basedir = "."

sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "image_scrapers": ("written.scrape",),
    "reset_modules": (),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 10000,
    "write_computation_times": False,
    "abort_on_example_error": True,
}
