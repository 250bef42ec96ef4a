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
import tempfile
from itertools import product
from math import isnan
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


def measured(results):
    """{benchmark: for each of its parameters, the values with which any commit has a number}."""
    found = {}
    for file in results.glob("*/*-*.json"):
        kept = json.loads(file.read_text())
        for name, columns in kept["results"].items():
            row = dict(zip(kept["result_columns"], columns))
            for number, values in zip(row["result"] or [], product(*row["params"])):
                if number is not None and not isnan(number):
                    for seen, value in zip(found.setdefault(name, [set() for _ in values]), values):
                        seen.add(value)
    return found


def publish(folder):
    """Without what was not measured, of which the pages would show empty frames, and legends of lines that are not there."""
    with tempfile.TemporaryDirectory() as room:
        results, config = Path(room, "results"), Path(room, "asv.conf.json")
        shutil.copytree(ROOT / "benchmarks" / "results", results)
        found, listed = measured(results), json.loads((results / "benchmarks.json").read_text())
        kept = {name: told for name, told in listed.items() if name in found or name == "version"}
        for name, values in found.items():
            if name in kept:
                kept[name]["params"] = [[v for v in every if v in seen] for every, seen in zip(kept[name]["params"], values)]
        (results / "benchmarks.json").write_text(json.dumps(kept))
        settings = json.loads((ROOT / "asv.conf.json").read_text())
        config.write_text(json.dumps({**settings, "repo": str(ROOT), "results_dir": str(results), "html_dir": str(folder)}))
        subprocess.run([sys.executable, "-m", "asv", "publish", "--no-pull", "--config", config], check=True)


def main():
    folder = Path(sys.argv[1]).absolute()
    publish(folder)
    if shutil.which("npm"):
        settle(folder)
    else:
        print("npm is not installed: the pages load their scripts from elsewhere")


if __name__ == "__main__":
    main()
