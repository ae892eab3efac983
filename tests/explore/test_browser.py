"""The page in a real browser, where one is installed."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser
from drive import make_drive
from samples import make_features, write_sample, write_tone

from palm_cache.adaptation.evaluate import evaluate_head
from palm_cache.adaptation.fit import fit_runs
from palm_cache.explore.page import write_page
from palm_cache.params import FitParams
from palm_cache.params.use import MapParams
from palm_cache.store.scores import write_predictions
from palm_cache.types.runs import Training

pytestmark = pytest.mark.slow

FEATURES = make_features(noise=1.2)

HELPERS = """
const report = {};
const canvas = document.getElementById("map");
const tip = document.getElementById("tip");
const text = (id) => document.getElementById(id).textContent;
canvas.setPointerCapture = () => {};  // it knows real pointers alone
function mouse(type, x, y) {
  const box = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new PointerEvent(type, { clientX: box.left + x, clientY: box.top + y, pointerId: 1,
    isPrimary: true, pointerType: "mouse", bubbles: true }));
}
function press(key) { canvas.dispatchEvent(new KeyboardEvent("keydown", { key })); }
/* Move over the whole map; return where the first line of the tip is what, and all first lines seen. */
function sweep(wanted) {
  const seen = new Set();
  let place = null;
  for (let y = 0; y < canvas.clientHeight; y += 7) {
    for (let x = 0; x < canvas.clientWidth; x += 7) {
      mouse("pointermove", x, y);
      if (tip.hidden) continue;
      const name = tip.firstChild.textContent;
      seen.add(name);
      if (name === wanted && !place) place = [x, y];
    }
  }
  return { place, seen: [...seen].sort() };
}
"""


@dataclass(frozen=True, slots=True)
class Visit:
    dom: str
    console: list[str]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page, the clips beside it and one of them in truth a sound."""
    folder = tmp_path_factory.mktemp("site")
    store = write_sample(folder / "store.zarr", FEATURES)
    heads, _ = fit_runs(
        FEATURES, FitParams(heads=("palm",), shots=(2,), seeds=(0,), training=Training(epochs=3))
    )
    write_predictions(folder / "predictions.h5", [evaluate_head(FEATURES, head)[1] for head in heads])
    write_tone(folder / "clips" / "17.wav", 440)
    write_page(
        store,
        folder / "explore.html",
        MapParams(predictions=folder / "predictions.h5", method="pca"),
        audio=folder / "clips",
    )
    return folder


@pytest.fixture
def visit(browser: Browser, site: Path) -> Callable[..., Visit]:
    """Open the page in a window of some size and run a script in it, which fills "report"."""

    def open_page(script: str = "", *, fragment: str = "", width: int = 960, height: int = 640) -> Visit:
        page = browser.open(f"{(site / 'explore.html').as_uri()}{fragment}", width, height)
        report = page.run(f"{HELPERS} {script} return report;")
        return Visit(page.run("return document.documentElement.outerHTML;"), page.console(), report)

    return open_page


def clip_facts(dom: str, name: str) -> str:
    found = re.search(rf'<dd id="{name}">(.*?)</dd>', dom)
    assert found
    return html.unescape(found[1])


def test_an_address_opens_a_clip_without_a_word_on_the_console(visit: Callable[..., Visit]) -> None:
    page = visit(fragment="#clip=17")
    assert page.console == []
    assert clip_facts(page.dom, "path") == "17.wav"
    assert clip_facts(page.dom, "label") == f"class {FEATURES.labels[17]}"
    assert re.fullmatch(r"class \d, \d+ % \((correct|wrong)\)", clip_facts(page.dom, "said"))
    assert 'src="clips/17.wav"' in page.dom


def test_hovering_tells_and_clicking_plays(visit: Callable[..., Visit]) -> None:
    page = visit("""
        const { place, seen } = sweep("17.wav");
        report.seen = seen;
        mouse("pointermove", ...place);
        report.tip = [...tip.children].map((line) => line.textContent);
        const playing = new Promise((done) => player.addEventListener("playing", done));
        mouse("pointerdown", ...place);
        mouse("pointerup", ...place);
        report.path = text("path");
        await playing;
        report.seconds = player.duration;
        report.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
    """)
    assert page.console == []
    assert len(page.report["seen"]) > 90  # of 120: the rest lie below others
    name, label, said = page.report["tip"]
    assert (name, label) == ("17.wav", f"class {FEATURES.labels[17]}")
    assert re.fullmatch(r"palm@epochs=3-2shots-seed0 says: class \d, \d+ % \((correct|wrong)\)", said)
    assert page.report["path"] == "17.wav"
    assert page.report["seconds"] == pytest.approx(1, abs=0.01)
    assert all(name.endswith("/clips/17.wav") for name in page.report["requests"])


def test_a_clip_that_is_not_there_is_told_of(visit: Callable[..., Visit]) -> None:
    page = visit("""
        const listed = document.querySelector("#confused [data-clip]:not([data-clip='17'])");
        listed.click();
        await new Promise((done) => player.addEventListener("error", done));
        report.path = text("path");
        report.absent = text("absent");
        report.hidden = player.hidden;
        report.listed = [listed.getAttribute("aria-current"), listed.className];
    """)
    path = page.report["path"]
    assert page.report["hidden"] is True
    assert page.report["listed"] == ["true", "absent"]
    assert page.report["absent"].startswith(
        f"It cannot be played: nothing this browser can decode lies at clips/{path}. Put the page into"
    )


def test_legend_search_and_colour_decide_what_is_seen(visit: Callable[..., Visit]) -> None:
    page = visit("""
        const picture = () => canvas.toDataURL();
        map.draw();  // now, not with the next frame
        const byClass = picture();
        document.querySelector("#legend input[value='2']").click();
        report.without = sweep("").seen;
        document.getElementById("none").click();
        report.none = sweep("").seen;
        document.getElementById("all").click();
        document.getElementById("find").value = "CLASS 3";
        document.getElementById("find").dispatchEvent(new Event("input"));
        report.matching = sweep("").seen;
        document.getElementById("find").value = "";
        document.getElementById("find").dispatchEvent(new Event("input"));
        map.draw();
        report.same = picture() === byClass;
        document.querySelector("input[value=verdict]").click();
        map.draw();
        report.recoloured = picture() !== byClass;
        report.key = text("key").replace(/\\s+/g, " ").trim();
    """)
    labels = {f"{row}.wav": int(label) for row, label in enumerate(FEATURES.labels)}
    assert page.console == []
    assert {labels[name] for name in page.report["without"]} == {0, 1, 3}
    assert page.report["none"] == []
    assert {labels[name] for name in page.report["matching"]} == {3}
    assert page.report["same"] is True
    assert page.report["recoloured"] is True
    assert page.report["key"] == "correct wrong"


def test_arrows_walk_and_plus_zooms(visit: Callable[..., Visit]) -> None:
    page = visit("""
        const keys = ["ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"];
        report.walk = keys.map((key) => { press(key); return location.hash; });
        for (let step = 0; step < 4; step += 1) press("+");
        report.near = sweep("").seen.length;
        press("0");
        report.whole = sweep("").seen.length;
        report.places = [data.x, data.y];
    """)
    assert page.console == []
    clips = [int(re.fullmatch(r"#clip=(\d+)", entry)[1]) for entry in page.report["walk"]]  # type: ignore[index]
    x, y = page.report["places"]
    assert x[clips[1]] > x[clips[0]]
    assert y[clips[2]] > y[clips[1]]
    assert x[clips[3]] < x[clips[2]]
    assert y[clips[4]] < y[clips[3]]
    assert 0 < page.report["near"] < 90 < page.report["whole"]


def test_a_phone_shows_it_without_sideways_scrolling(visit: Callable[..., Visit]) -> None:
    page = visit(
        """
        for (const element of document.querySelectorAll("details")) element.open = true;
        report.width = document.documentElement.scrollWidth;
        report.map = [canvas.clientWidth, canvas.clientHeight];
        report.seen = sweep("").seen.length;
        """,
        width=390,
        height=844,
        fragment="#clip=3",
    )
    assert page.report["width"] <= 390
    assert 300 < page.report["map"][0] < 390
    assert page.report["map"][1] < 500
    assert page.report["seen"] > 40


def test_a_phone_shows_what_no_run_has_judged_without_sideways_scrolling(
    browser: Browser, site: Path
) -> None:
    write_page(site / "store.zarr", site / "unjudged.html", MapParams(method="pca"), audio=site / "clips")
    page = browser.open((site / "unjudged.html").as_uri(), 390, 844)
    assert page.run("return document.documentElement.scrollWidth;") <= 390


def test_of_a_window_its_stretch_is_played_and_again(browser: Browser, tmp_path: Path) -> None:
    drive = make_drive(tmp_path)
    write_page(drive.store, tmp_path / "explore.html", MapParams(method="pca"), audio=drive.recordings)
    page = browser.open((tmp_path / "explore.html").as_uri(), 960, 640)
    heard = page.run("""
        const heard = [];
        player.addEventListener("timeupdate", () => heard.push(player.currentTime));
        const stopped = () => new Promise((resolve) => { player.onpause = resolve; });
        for (const again of [false, true]) {
          const end = stopped();
          if (again) playChosen(); else choose(data.path.indexOf("4.wav 1-2 s"), true);
          await end;
        }
        return [Math.min(...heard.filter(Boolean)), Math.max(...heard), player.duration];
    """)
    assert heard[0] == pytest.approx(1, abs=0.06)
    assert heard[1] == pytest.approx(2, abs=0.1)
    assert heard[2] == 2.5
    assert page.run("return byId('path').textContent;") == "4.wav 1-2 s"
