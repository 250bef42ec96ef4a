"""README and the pages: their examples run, they list every public name, and the built site works in a browser."""

import doctest
import functools
import html.parser
import http.server
import json
import re
import shutil
import subprocess
import threading
import urllib.parse
from pathlib import Path

import pytest

import softcore as sc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = DOCS / "_build" / "html"
PAGES = [*sorted(DOCS.glob("*.rst")), *sorted((DOCS / "ops").glob("*.rst"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_examples_in_pages(page):
    assert doctest.testfile(str(page), module_relative=False, encoding="utf-8").failed == 0


def test_examples_in_readme():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)  # noqa: S102
        assert set(names["y"].sum(axis=0).round(6)) == {0, 1}  # 0 where a column is all masked out
        assert names["z"].shape == ()


def listed(page):
    """The names in a page's autosummaries."""
    return re.findall(r"^   (\w+)$", (DOCS / "api" / page).read_text(), re.MULTILINE)


def test_api_lists_every_public_name():
    modules = [name for name in sc.__all__ if name in ("compat", "opencl", "reference", "testing")]
    names = sorted(set(sc.__all__) - {"__version__", *modules})
    assert sorted(set(listed("index.rst")) - {*modules, "fold"}) == names
    assert sorted(listed("testing.rst")) == sorted(sc.testing.__all__)
    for module in modules:
        assert (DOCS / "api" / f"{module}.rst").exists()


def test_every_op_has_its_place_on_a_page():
    told = " ".join(page.read_text() for page in (DOCS / "ops").glob("*.rst"))
    missing = [name for name in sc.reference.OPS if f":func:`{name}`" not in told]
    assert missing == []


HEADINGS = ["Formula", "Picture", "State and merge", "Definition", "Gradient", "Edges", "Accuracy", "Cost"]
HEADINGS += ["How the kernel walks the data", "Example", "Sources"]


@pytest.mark.parametrize("page", [page.name for page in PAGES if page.parent.name == "ops" and page.name != "index.rst"])
def test_pages_of_ops_have_the_same_headings(page):
    found = re.findall(r"^(.+)\n-{3,}$", (DOCS / "ops" / page).read_text(), re.MULTILINE)
    assert found[0] in ("What it is for", "What they are for")
    assert found[1:] == HEADINGS


# ------------------------------------------------------------------------------------------------------- the built pages

built = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the pages are not built: `make docs` does it, in docs/_build/html")


class Links(html.parser.HTMLParser):
    """Where a page's links lead, and what in it can be linked to."""

    def __init__(self, page):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given.get("id"), given.get("name")}
        self.links += [given[name] for name in ("href", "src") if given.get(name) and tag != "base"]


@built
def test_links_between_pages():
    pages = [page for page in SITE.rglob("*.html") if not {"_static", "history"} & set(page.relative_to(SITE).parts)]
    found = {page: Links(page) for page in pages}
    broken = []
    for page in pages:
        for link in found[page].links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.exists() or (anchor and target in found and anchor not in found[target].anchors):
                broken.append(f"{page.relative_to(SITE)}: {link}")
    assert broken == []
    assert sum(len(of_page.links) for of_page in found.values()) > 1000


# ---------------------------------------------------------------------------------------------------------- in a browser

# Opens each page in a frame, in both themes, and tells what is wrong with it.
TOUR = """<!doctype html><link rel="icon" href="data:,"><iframe id="frame" width="1920" height="1080"></iframe><script>
const frame = document.getElementById("frame"), found = [];
const light = colour => colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765;

async function open(page) {
  await new Promise(done => { frame.onload = done; frame.src = page; });
  return frame.contentDocument;
}

// A graph of asv's is drawn when its canvas has lines in colour.
async function graphs(page) {
  const opened = await open(page);
  const lines = canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, canvas.width, canvas.height);
    let coloured = 0;
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] && Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]) > 60) coloured++;
    return coloured;
  };
  const drawn = () => [...opened.querySelectorAll("canvas.flot-base")].some(canvas => lines(canvas) > 200);
  for (let i = 0; i < 100 && !drawn(); i++) await new Promise(done => setTimeout(done, 50));
  if (!drawn()) found.push(`${page}: no graph is drawn`);
}

// The page of attention's heads shades the tokens anew for the one that the pointer is over.
async function explorer(page) {
  const inner = (await open(page)).querySelector("iframe[srcdoc]")?.contentDocument;
  for (let i = 0; i < 100 && !inner?.querySelector("#tokens button"); i++) await new Promise(done => setTimeout(done, 50));
  const chips = [...inner?.querySelectorAll("#tokens button") ?? []];
  const shares = () => chips.map(chip => chip.textContent).join();
  if (chips.length < 4) return found.push(`${page}: it has no tokens to hover over`);
  for (const chip of chips.slice(1, 4)) {
    const before = shares();
    chip.dispatchEvent(new MouseEvent("mouseenter"));
    if (shares() === before || chip.className !== "asking") found.push(`${page}: nothing happens where the pointer is over ${chip.textContent}`);
  }
  const told = inner.getElementById("chosen").textContent, before = shares();
  inner.querySelector("#heads button[aria-pressed=false]").click();
  if (inner.getElementById("chosen").textContent === told || shares() === before) found.push(`${page}: another head shows the same`);
}

async function tour() {
  const pages = await (await fetch("/pages.json")).json();
  for (const page of pages) {
    const opened = await open(page), root = opened.documentElement;
    for (const image of opened.images)
      if (image.loading !== "lazy" && !image.naturalWidth) found.push(`${page}: ${image.src} is not shown`);
    if (!opened.querySelector("h1")) found.push(`${page}: it has no heading`);
    if (!page.startsWith("gallery/"))
      for (const code of opened.querySelectorAll(".highlight-python pre, .highlight-default pre"))
        if (code.scrollWidth > code.clientWidth) found.push(`${page}: a line is cut: ${code.textContent.slice(0, 60)}`);
    for (const theme of ["light", "dark"]) {
      root.dataset.theme = theme;
      const style = frame.contentWindow.getComputedStyle(opened.body);
      const paper = light(frame.contentWindow.getComputedStyle(root).backgroundColor === "rgba(0, 0, 0, 0)" ? style.backgroundColor
        : frame.contentWindow.getComputedStyle(root).backgroundColor), ink = light(style.color);
      if ((theme === "dark") !== (paper < 0.5) || Math.abs(paper - ink) < 0.5) found.push(`${page}: ${ink} on ${paper} in ${theme}`);
    }
  }
  const results = await open("/search.html?q=softmax");
  const hits = () => [...results.querySelectorAll("#search-results li a")].map(hit => hit.getAttribute("href"));
  for (let i = 0; i < 100 && !hits().some(hit => hit.includes("ops/softmax")); i++) await new Promise(done => setTimeout(done, 50));
  if (!hits().some(hit => hit.includes("ops/softmax"))) found.push(`search finds ${hits()}`);
  const link = (await open("/performance.html")).querySelector('a[href="history/index.html"]');
  if (!link) found.push("performance.html does not link to the history");
  else
    for (const graph of ["ops.softmax.track_copies", "ops.max.track_copies", "attention.Attention.track_products", "calls.track_import"])
      await graphs(`${link.href}?${graph}#${graph}`);  // by another address, or nothing would be loaded
  await explorer("/gallery/bert.html");
  return pages.length;
}

tour().catch(error => { found.push(String(error)); return 0; })
  .then(opened => fetch("/found", {method: "POST", body: JSON.stringify({opened, found})}));
</script>"""


class Site(http.server.SimpleHTTPRequestHandler):
    """The built pages, the tour, and what it found."""

    def do_GET(self):
        pages = [str(page.relative_to(SITE)) for page in sorted(SITE.rglob("*.html")) if not {"_static", "history"} & set(page.parts)]
        made = {"/tour.html": TOUR, "/pages.json": json.dumps(pages)}
        if self.path not in made:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path.endswith("html") else "application/json")
        self.end_headers()
        self.wfile.write(made[self.path].encode())

    def do_POST(self):
        self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.done.set()

    def send_error(self, code, *message):
        self.server.missing.append(self.path)
        super().send_error(code, *message)

    def log_message(self, *arguments):
        pass


# asv's pages load their scripts from elsewhere where npm could not fetch them.
SCRIPTS = SITE / "history" / "jquery.min.js"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@built
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
@pytest.mark.skipif(not SCRIPTS.exists(), reason="the history has no scripts: `make docs`, where npm is installed")
def test_the_site_in_a_browser(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=SITE)) as server:
        server.missing, server.done, server.found = [], threading.Event(), None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/tour.html"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
        with open(tmp_path / "log", "w") as log:
            browser = subprocess.Popen([BROWSER, *options, "--remote-debugging-port=0", address], stderr=log, stdout=subprocess.DEVNULL)
            try:
                assert server.done.wait(300), "the tour did not end"
            finally:
                browser.terminate()
                browser.wait(30)
        server.shutdown()
    said = [line for line in (tmp_path / "log").read_text().splitlines() if "CONSOLE" in line and '"[PST]: ' not in line]
    assert server.missing == []
    assert said == []
    assert server.found["found"] == []
    assert server.found["opened"] >= len(PAGES)
