"""The gallery's pictures and pages: those that an example writes beside itself."""

import html
import shutil
import textwrap
from pathlib import Path

from sphinx_gallery.scrapers import figure_rst

FRAME = '<iframe title="{}" srcdoc="{}" style="width: 100%; height: 84rem; border: 0"></iframe>'


def scrape(block, variables, gallery):
    """Take the pictures and pages that are new since the block before; a page goes into a frame."""
    folder = Path(variables["src_file"]).parent
    pictures = []
    for picture in sorted(folder.glob("*.png")):
        pictures.append(next(variables["image_path_iterator"]))
        shutil.move(picture, pictures[-1])
    frames = ""
    for page in sorted(folder.glob("*.html")):
        frame = FRAME.format(page.stem, html.escape(page.read_text(encoding="utf-8")))
        frames += f".. raw:: html\n\n{textwrap.indent(frame, '    ')}\n\n"
        page.unlink()
    return figure_rst(pictures, gallery["src_dir"]) + frames
