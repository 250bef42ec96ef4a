"""The gallery's pictures: those that an example writes beside itself."""

import shutil
from pathlib import Path

from sphinx_gallery.scrapers import figure_rst


def scrape(block, variables, gallery):
    """Take the pictures that are new since the block before."""
    pictures = []
    for picture in sorted(Path(variables["src_file"]).parent.glob("*.png")):
        pictures.append(next(variables["image_path_iterator"]))
        shutil.move(picture, pictures[-1])
    return figure_rst(pictures, gallery["src_dir"])
