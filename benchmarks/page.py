"""asv's pages of the results in benchmarks/results, in a folder that needs nothing from elsewhere.

    python benchmarks/page.py .asv/html

asv links its scripts to servers of others. npm, where it is installed, fetches the same files once, into .asv/scripts; without it the links stay.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FETCHED = ROOT / ".asv" / "scripts"

# The package of npm that has a file, by the end of the address that asv gives. Where their minified files are others' work, the source.
SCRIPTS = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}

ELSEWHERE = re.compile(r'(src|href)="https://[^"]*/([^"/]+\.(?:js|css))"[^>]*?(?=>)')


def fetch(package, path):
    """A file of a package."""
    file = FETCHED / Path(path).name
    if not file.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["npm", "pack", "--silent", package], cwd=FETCHED, check=True, capture_output=True, text=True)
        archive = FETCHED / packed.stdout.split()[-1]
        with tarfile.open(archive) as members:
            file.write_bytes(members.extractfile(f"package/{path}").read())
        archive.unlink()
    return file


def settle(folder):
    """Put the scripts beside the page that asks for them."""

    def beside(tag):
        if tag[2] not in SCRIPTS:  # of another asv than was looked at: left where it is
            return tag[0]
        file = fetch(*SCRIPTS[tag[2]])
        shutil.copy(file, folder)
        return f'{tag[1]}="{file.name}"'

    page = folder / "index.html"
    page.write_text(ELSEWHERE.sub(beside, page.read_text()))


def measured(folder):
    """Leave out the benchmarks of the suite that have no results, of which the pages would show empty frames."""
    index = folder / "index.json"
    content = json.loads(index.read_text())
    graphs = folder / "graphs" / "summary"
    content["benchmarks"] = {name: told for name, told in content["benchmarks"].items() if (graphs / f"{name}.json").exists()}
    index.write_text(json.dumps(content))


def main():
    folder = Path(sys.argv[1]).absolute()
    subprocess.run([sys.executable, "-m", "asv", "publish", "--no-pull", "--html-dir", folder], cwd=ROOT, check=True)
    measured(folder)
    if shutil.which("npm"):
        settle(folder)
    else:
        print("npm is not installed: the pages load their scripts from elsewhere")


if __name__ == "__main__":
    main()
