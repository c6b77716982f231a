"""A report in headless Chromium, from file://: visible, loaded, played, without errors, on a phone and in the dark."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "plugins" / "mesh3d"))
from chromium_pipe import CHROMIUM, Browser

from tok4d_bench.compare.runs import find_runs
from tok4d_bench.report.build import Asked, write_report
from tok4d_bench.runner import Work, run_suite
from tok4d_bench.subjects import load_subject
from tok4d_bench.suite import load_suite

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
pytest.importorskip("av")

TASKS = {
    "image": {
        "data": {"source": "image/shapes", "options": {"count": 5, "side": 64}},
        "measures": ["psnr", "ssim", "rate"],
        "inner_batch": 5,
        "anchors": {"table": "table4_image_recon", "columns": {"psnr": "in_psnr", "ssim": "in_ssim"}},
    },
    "video": {
        "data": {"source": "video/moving", "options": {"count": 2, "side": 48, "length": 16, "frames": 16}},
        "measures": ["psnr", "rate"],
        "inner_batch": 2,
    },
}
VISIBLE = """[...document.querySelectorAll('h1, h2, table#figures, figure, svg, img, video')].filter(
  e => !e.getClientRects().length || e.getBoundingClientRect().width < 20).map(e => e.outerHTML.slice(0, 80))"""
LOADED = """(async () => {
  for (const one of document.images) { one.loading = 'eager'; await one.decode(); }
  return [...document.images].map(one => one.naturalWidth);
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "made.yaml").write_text(yaml.safe_dump({"name": "made", "tasks": TASKS}))
    suite = load_suite(folder / "made.yaml")
    for spec in ("identity", "jpeg,bpp=1", "jpeg,bpp=2"):
        run_suite(suite, load_subject(spec), Work(folder / "runs"))
    asked = Asked(["table4_image_recon"], suites=[str(folder / "made.yaml")])
    found = write_report(find_runs([folder / "runs"]), folder / "page", asked)
    assert found.said == []
    return folder / "page" / "index.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    started.call("Page.addScriptToEvaluateOnNewDocument", source=CONSOLE)
    yield started
    started.close()


CONSOLE = """window.said = [];
for (const level of ['error', 'warn']) console[level] = (...what) => window.said.push(what.join(' '));
addEventListener('error', event => window.said.push(String(event.message || event.target.src)), true);"""


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_everything_is_shown(page: Path, chromium: Browser, width: int, scheme: str) -> None:
    chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    chromium.open(page, width, 740)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run(VISIBLE) == []
    widths = chromium.run(LOADED)
    assert len(widths) == 3 * 5  # best, median and worst picture: original, and two subjects with their errors
    assert all(found == 64 for found in widths)
    assert chromium.run("document.querySelectorAll('video').length") == 2 * 5
    assert chromium.run("[...document.querySelectorAll('img, video, svg')].every(e => e.alt || e.ariaLabel)")
    assert chromium.run("document.querySelectorAll('th.published').length") > 10
    ground = chromium.picture()[3, 3].mean()
    text = chromium.run("getComputedStyle(document.body).color")
    shade = np.mean([int(part) for part in text[4:-1].split(",")]) / 255
    assert abs(ground - shade) > 0.7
    assert (ground < 0.2) == (scheme == "dark")
    assert chromium.run("window.said") == []
    assert chromium.messages == []
    assert {url.split(":")[0] for url in chromium.requests} <= {"file", "data"}  # data: what players of clips look like


def test_clips_play_together(page: Path, chromium: Browser) -> None:
    chromium.open(page, 800, 600)
    chromium.run("void (window.row = [...document.querySelector('video').closest('.shots').querySelectorAll('video')])")
    assert chromium.run("row.length") == 5
    chromium.run("row[1].play().then(() => 1)")
    chromium.wait("row.every(clip => clip.currentTime > 0.05)")
    assert chromium.run("row.every(clip => clip.videoWidth === 48)")
    chromium.run("row[2].pause()")
    chromium.wait("row.every(clip => clip.paused)")
    assert chromium.run("window.said") == []
