"""The viewer in headless Chromium, from file://: its pictures against the rasterizer's, its controls, its fallback."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium_pipe import CHROMIUM, Browser
from gaussian_assets import random_gaussians
from PIL import Image

from tok4d.model.gaussians import SH_DC, Gaussians
from tok4d_mesh3d.splatting import rasterize
from tok4d_mesh3d.viewer import View, viewer_assets, viewer_fragment, write_viewer

SIZE = 200
POSTER = Image.new("RGBA", (4, 4), (200, 30, 60, 255))
LIVE = "document.querySelectorAll('figure:not(.live)').length === 0"
PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>body {{ margin: 0; }}
figure {{ position: absolute; width: {size}px; }} .stage {{ border-radius: 0 !important; }}
figcaption, .bar {{ visibility: hidden; }}</style>{assets}{figures}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
pytest.importorskip("numba")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Without what the test before emulated; no script may fail and nothing but the page may be asked for."""
    chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    yield chromium
    assert chromium.messages == []
    assert {url.split(":")[0] for url in chromium.requests} <= {"file", "data"}
    assert len([url for url in chromium.requests if url.startswith("file")]) <= 1


def plates(count: int, opacity: float) -> Gaussians:
    """Flat splats on a sphere, facing outward, striped."""
    some = random_gaussians(count, seed=3)
    normal = some.means / some.means.norm(dim=1, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(normal)
    turn = torch.cat([1 + (up * normal).sum(1, keepdim=True), torch.linalg.cross(up, normal)], 1)
    stripes = torch.stack([normal[:, 2] * 4, normal[:, 0] * 6, normal[:, 1] * 3], 1).sin() * 0.5
    return Gaussians(
        normal * 0.42,
        torch.tensor([0.02, 0.01, 0.002]).expand(count, 3),
        turn / turn.norm(dim=1, keepdim=True),
        torch.full((count,), opacity),
        stripes / SH_DC,
    )


def drawn(asset: Gaussians, view: View, background: list[float]) -> np.ndarray:
    parts = (asset.means, asset.quaternions, asset.scales, asset.opacities, asset.rgb)
    camera = (view.world_to_camera()[None], view.intrinsics(SIZE, SIZE)[None])
    images, _ = rasterize(*parts, *camera, SIZE, SIZE, background=torch.tensor(background))
    return images[0].permute(1, 2, 0).clamp(0, 1).double().numpy()


def quality(found: np.ndarray, wanted: np.ndarray) -> float:
    """PSNR in dB."""
    return -10 * math.log10(((found - wanted) ** 2).mean())


SCENES = {
    "solid": (plates(4000, 0.9), View(30, 20)),
    "faint layers": (plates(6000, 0.08), View(-100, 60)),
    "fog": (random_gaussians(3000, seed=1), View(200, -35, 1.6)),
    "from below": (plates(3000, 0.6), View(75, -90)),
    "inside": (plates(3000, 0.7), View(10, 5, 0.3, 70.0)),
    "aside": (plates(3000, 0.7), View(10, 5, 2.5, 30.0, (0.3, -0.1, 0.2))),
}


def test_pictures_are_those_of_the_rasterizer(browser: Browser, tmp_path: Path) -> None:
    """One page with all scenes, light and dark in turn; what is left are errors of packing and of 8-bit screens."""
    figures, shades, measured = [], [("light", [0xF4, 0xF5, 0xF7]), ("dark", [0x16, 0x18, 0x1D])], {}
    for i, (asset, view) in enumerate(SCENES.values()):
        fragment = viewer_fragment(asset, view=view, poster=POSTER)
        place = f'<figure data-background="{shades[i % 2][0]}" style="left: {i * SIZE}px"'
        figures.append(fragment.replace("<figure", place))
    page = tmp_path / "scenes.html"
    page.write_text(PAGE.format(size=SIZE, assets=viewer_assets() * 2, figures="".join(figures)))
    browser.open(page, len(SCENES) * SIZE, SIZE)
    browser.wait(LIVE)
    found = browser.picture()
    for i, (name, (asset, view)) in enumerate(SCENES.items()):
        wanted = drawn(asset, view, [c / 255 for c in shades[i % 2][1]])
        measured[name] = quality(found[:, i * SIZE : (i + 1) * SIZE], wanted)
    assert {key: value for key, value in measured.items() if value < 48} == {}, measured


def test_controls(browser: Browser, tmp_path: Path) -> None:
    page, start = tmp_path / "controls.html", [0, 0, 2, 0, 0, 0, False]
    write_viewer(plates(100, 0.5), page, view=View(0, 0, 2.0, 40.0), poster=POSTER)
    browser.open(page, 300, 240)
    browser.wait(LIVE)
    browser.run("void (window.viewer = tok4dSplats.viewer(document.querySelector('figure')))")
    pixel = (
        2 * math.tan(math.radians(20)) / browser.run("viewer.canvas.clientHeight / 2")
    )  # in the world, at the target

    def expect(*changes: tuple[int, float], spin: bool = False, within: float = 1e-9) -> None:
        """Yaw, pitch, radius, target and spin; then everything is reset."""
        state = browser.run("[viewer.camera.yaw, viewer.camera.pitch, viewer.camera.radius, ...viewer.camera.target]")
        assert state == pytest.approx([dict(changes).get(i, value) for i, value in enumerate(start[:6])], abs=within)
        assert browser.run("viewer.spin") == spin
        browser.run("viewer.reset()")

    def drag(right: float, down: float, **more: object) -> None:
        browser.mouse("mousePressed", 100, 100, button="left", clickCount=1, **more)
        browser.mouse("mouseMoved", 100 + right, 100 + down, button="left", buttons=1, **more)
        browser.mouse("mouseReleased", 100 + right, 100 + down, button="left", clickCount=1, **more)

    expect()
    drag(50, 25)
    expect((0, -0.4), (1, 0.2))
    browser.mouse("mouseMoved", 10, 10)
    expect()
    drag(50, 0, modifiers=8)
    expect((4, -50 * pixel))
    browser.mouse("mouseWheel", 100, 100, deltaX=0, deltaY=100)
    expect((2, 2 * math.exp(0.12)))
    for key in ("ArrowLeft", "ArrowDown", "+"):
        browser.press(key)
    expect((0, 0.1), (1, 0.1), (2, 1.8))
    browser.press("ArrowLeft")
    browser.press("0")
    expect()
    browser.touch("touchStart", (90, 100), (110, 100))
    browser.touch("touchMove", (80, 100), (120, 100))
    browser.touch("touchEnd")
    expect((2, 1.0), within=0.01)  # fingers report one after the other: the second moves what the first has zoomed
    browser.run("document.querySelector('[data-action=background]').click()")
    assert browser.run("getComputedStyle(viewer.canvas).backgroundColor") == "rgb(22, 24, 29)"
    browser.picture()
    before = browser.picture()
    browser.run("document.querySelector('[data-action=spin]').click()")
    browser.wait("viewer.camera.yaw > 0.05")
    assert quality(browser.picture(), before) < 40
    browser.run("document.querySelector('[data-action=spin]').click()")
    expect((0, browser.run("viewer.camera.yaw")))


def test_follows_the_systems_dark_mode_and_the_windows_size(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "dark.html"
    write_viewer(plates(100, 0.5), page, poster=POSTER)
    browser.open(page, 300, 240)
    browser.wait(LIVE)
    assert (browser.picture()[5, 5] * 255).tolist() == [244, 245, 247]
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert (browser.picture()[5, 5] * 255).tolist() == [22, 24, 29]
    browser.call("Emulation.setDeviceMetricsOverride", width=500, height=400, deviceScaleFactor=1, mobile=False)
    browser.wait("document.querySelector('canvas').width === 500")
    corners = browser.picture()[[5, 5, 300, 300], [5, 490, 5, 250]] * 255
    assert corners[:3].tolist() == [[22, 24, 29]] * 3


def test_context_that_was_lost_comes_back(browser: Browser, tmp_path: Path) -> None:
    """What a browser does when a graphics driver restarts or too many pages draw."""
    page, (asset, view) = tmp_path / "lost.html", SCENES["solid"]
    write_viewer(asset, page, view=view, poster=POSTER)
    spy = """const get = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
      const made = get.call(this, kind, ...rest);
      if (kind === "webgl2") window.gl = made;
      return made;
    };"""
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=spy)["identifier"]
    try:
        browser.open(page, 300, 240)
        browser.wait(LIVE)
        before = browser.picture()
        browser.run("window.losing = gl.getExtension('WEBGL_lose_context'), losing.loseContext()")
        browser.wait("gl.isContextLost()")
        browser.press("ArrowLeft")
        browser.run("losing.restoreContext()")
        browser.wait("!gl.isContextLost()")
        browser.run("tok4dSplats.viewer(document.querySelector('figure')).reset()")
        np.testing.assert_allclose(browser.picture(), before, atol=1.5 / 255)
        assert len(np.unique(before[:180].reshape(-1, 3), axis=0)) > 1000  # drawn, not the poster
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_a_still_picture_where_nothing_can_be_drawn(browser: Browser, tmp_path: Path) -> None:
    """Without WebGL and with damaged data, each with the reason; and without scripts."""
    page = tmp_path / "still.html"
    write_viewer(plates(100, 0.5), page, poster=POSTER)
    text = page.read_text()
    start = text.index('octet-stream">') + 14
    unfit = {
        "(a still picture: WebGL 2 is not available)": text.replace('getContext("webgl2"', 'getContext("webgl9"'),
        "(a still picture: its data is not complete)": text[:start] + text[start + 400 :],
        "": re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL),
    }
    for note, content in unfit.items():
        assert content != text
        page.write_text(content)
        browser.open(page, 400, 300)
        browser.wait(f"document.querySelector('.note').textContent === {note!r}")
        picture = browser.picture() * 255
        np.testing.assert_allclose(picture[[130, 20, 130], [200, 200, 5]], [[200, 30, 60]] * 2 + [[244, 245, 247]])


def test_many_viewers_share_one_context_and_start_when_seen(browser: Browser, tmp_path: Path) -> None:
    """40 are more contexts than a browser grants."""
    fragments = [viewer_fragment(plates(50, 0.9), title=f"asset {i}", poster=POSTER) for i in range(40)]
    page = tmp_path / "many.html"
    page.write_text(f"<!DOCTYPE html><body style='width: 200px'>{viewer_assets()}{''.join(fragments)}")
    browser.open(page, 300, 300)
    browser.wait("document.querySelector('figure').classList.contains('live')")
    assert browser.run("document.querySelectorAll('figure.live').length") < 5
    for i in range(40):
        browser.run(f"document.querySelectorAll('figure')[{i}].scrollIntoView()")
        browser.wait(f"document.querySelectorAll('figure')[{i}].classList.contains('live')")
    assert browser.run("Math.max(...[...document.querySelectorAll('.note')].map(n => n.textContent.length))") == 0
