"""Reports in a real headless Chromium: drawn without complaint, and usable with mouse, keyboard, and in the dark."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lifelong
from lifelong.config.run import RunConfig
from lifelong.report.html import write_report
from lifelong.report.look import HELD, HELD_IN_THE_DARK
from lifelong.report.study import write_study_report
from lifelong.study.study import Study
from streams.config import parse

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    run = lifelong.load_run(tiny_study.jobs[-1].folder)
    return {
        "study": write_study_report(tiny_study, folder / "study.html"),
        "run": write_report(run, folder / "run.html"),
    }


LEARNERS, UNLEARNERS = (
    ("naive", "replay", "ewc", "l2"),
    ("none", "finetune", "gradient-ascent", "ssd", "retrain"),
)
WIDE = {f"{a}-{b}": {"learner": a, "unlearner": b} for a in LEARNERS for b in UNLEARNERS}
LONG: dict[str, Any] = {
    "name": "long",
    "scenario": {"name": "recurring", "tasks": 800, "samples_per_class": 10},
    "schedule": {"name": "periodic", "every": 4, "samples": 2},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 1, "lr": 0.1},
    "evaluation": {"every": 20, "probe": 0, "follow": "geometric"},
    "references": {"kinds": ["retrained"], "every": 100},
    "strategies": {"naive": {"unlearner": "none"}, "replay": {"learner": "replay", "unlearner": "gradient-ascent"}},
}


@pytest.fixture(scope="module")
def large(tiny_study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of 20 strategies and of 1,000 events."""
    root = tmp_path_factory.mktemp("large")
    assert isinstance(tiny_study.config.base, dict)
    wide = tiny_study.config.base | {"name": "wide", "strategies": WIDE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIFELONG_CACHE", str(root / "cache"))
        made = {config["name"]: lifelong.run(parse(RunConfig, config), root) for config in (wide, LONG)}
    assert len(made["wide"].tables) == 20
    assert made["long"].tables["naive"].rows[-1].event == 999
    return {name: write_report(run) for name, run in made.items()}


class Shown:
    """A report on the screen; whatever the browser complains about, or tries to load, is kept."""

    def __init__(self, browser: Any, file: Path, scheme: str = "light", width: int = 1200) -> None:
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(180_000)  # beside other work pages are drawn slowly
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url, file))
        self.page.goto(file.as_uri())
        self.early = self.page.locator(".plot.drawn").count()
        self.page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws what has not come near the screen yet
        seen = "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent)"
        self.page.wait_for_function(f"() => {seen}.every(p => p.querySelector('.main-svg'))")

    def _asked(self, url: str, file: Path) -> None:
        if url != file.as_uri() and not url.startswith(("data:", "blob:")):
            self.complaints.append(f"loads {url}")

    def seen(self, figure: str) -> dict[str, bool]:
        """Which traces are visible, by name."""
        script = "id => document.getElementById(id)._fullData.map(t => [t.name, t.visible === true])"
        return dict(self.page.evaluate(script, figure))


@pytest.fixture(params=["run", pytest.param("study", marks=pytest.mark.nightly)])
def shown(request: pytest.FixtureRequest, browser: Any, files: dict[str, Path]) -> Iterator[Shown]:
    found = Shown(browser, files[request.param])
    yield found
    found.page.close()
    assert found.complaints == []


def test_every_figure_is_drawn_inside_the_page(shown: Shown) -> None:
    plots = shown.page.locator(".plot")
    assert plots.count() >= 5
    width = shown.page.evaluate("document.documentElement.clientWidth")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.early < plots.count(), "figures wait until they come near the screen"
    for i in range(plots.count()):
        box = plots.nth(i).bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100


@pytest.mark.nightly
def test_on_a_phone_figures_and_tables_scroll_and_captions_can_be_read(shown: Shown) -> None:
    shown.page.set_viewport_size({"width": 390, "height": 800})
    assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
    for width in shown.page.evaluate("[...document.querySelectorAll('.plot')].map(p => p.clientWidth)"):
        assert width >= 320
    broad = shown.page.evaluate("[...document.querySelectorAll('.plot.broad')].map(p => p.clientWidth)")
    assert broad
    assert all(width > 600 for width in broad)  # colour bars, names and panels side by side have room; they scroll
    captions = "[...document.querySelectorAll('caption span')].map(c => c.getBoundingClientRect())"
    assert all(box["right"] <= 390 for box in shown.page.evaluate(captions))


@pytest.mark.nightly
def test_a_click_on_the_legend_hides_a_strategy_and_another_brings_it_back(shown: Shown) -> None:
    figure = "figure-score" if shown.page.locator("#figure-score").count() else "figure-average-0"
    before = shown.seen(figure)
    assert all(before.values())
    entry = shown.page.locator(f"#{figure} .legend .traces").first
    name = entry.locator(".legendtext").text_content()
    toggle = entry.locator(".legendtoggle")
    toggle.scroll_into_view_if_needed()
    toggle.click(force=True)
    shown.page.wait_for_function(
        "([id, name]) => document.getElementById(id)._fullData.find(t => t.name === name).visible === 'legendonly'",
        arg=[figure, name],
    )
    after = shown.seen(figure)
    assert not after[name]
    assert not after.get(f"{name}, band", False)
    others = [n for n in after if n not in (name, f"{name}, band")]
    assert all(after[n] for n in others)
    shown.page.wait_for_timeout(500)  # two clicks in a row would be a double click, which isolates
    toggle.click(force=True)
    shown.page.wait_for_function(
        "([id, name]) => document.getElementById(id)._fullData.every(t => t.visible === true)", arg=[figure, name]
    )


@pytest.mark.nightly
def test_pointing_at_a_curve_shows_its_numbers(shown: Shown) -> None:
    figure = "figure-score" if shown.page.locator("#figure-score").count() else "figure-average-0"
    plot = shown.page.locator(f"#{figure} .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    shown.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    label = shown.page.locator(f"#{figure} .hoverlayer .legendtext, #{figure} .hoverlayer .hovertext").first
    label.wait_for()
    texts = shown.page.locator(f"#{figure} .hoverlayer text").all_text_contents()
    strategy = next(n for n in shown.seen(figure) if "," not in n)
    assert any(strategy in text for text in texts)
    assert any(character.isdigit() for character in "".join(texts))


@pytest.mark.nightly
def test_the_keyboard_reaches_everything(shown: Shown) -> None:
    page = shown.page
    page.keyboard.press("Tab")
    focused = "document.activeElement.className + ' ' + document.activeElement.textContent"
    assert page.evaluate(focused) == "skip Skip to the results"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert "scroll" in reached
    page.evaluate("document.querySelector('details:not([open]) > summary').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    stops = "[...document.querySelectorAll('a[href], button, summary, [tabindex]')].filter(e => e.tabIndex >= 0)"
    assert page.evaluate(f"{stops}.filter(e => e.closest('.modebar')).length") == 0
    assert page.evaluate(f"{stops}.length") < 60


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["run", "study"])
def test_light_and_dark_can_both_be_read(browser: Any, files: dict[str, Path], name: str) -> None:
    found = Shown(browser, files[name])
    grounds = []
    for scheme in ("light", "dark"):
        found.page.emulate_media(color_scheme=scheme)
        ground = _colour(found, "getComputedStyle(document.body).backgroundColor")
        grounds.append(ground)
        texts = ["getComputedStyle(document.body).color"]
        texts += [f"getComputedStyle(document.querySelector('.plot {t}')).fill" for t in (".xtick text", ".legendtext")]
        texts += ["getComputedStyle(document.querySelector('figcaption')).color"]
        for text in texts:
            assert contrast(_colour(found, text), ground) >= 4.5, (scheme, text)
    assert contrast(*grounds) > 10
    found.page.close()
    assert found.complaints == []


@pytest.mark.nightly
def test_heat_maps_take_the_colours_of_the_theme(browser: Any, files: dict[str, Path]) -> None:
    """What is not known is near the ground, in the dark too."""
    scale = "document.querySelector('#figure-matrix-0')._fullData[0].colorscale[0][1]"
    found = Shown(browser, files["run"], "dark")
    dark = found.page.evaluate(scale)
    found.page.emulate_media(color_scheme="light")
    found.page.wait_for_function(f"() => {scale} !== {dark!r}")
    light = found.page.evaluate(scale)
    found.page.close()
    assert (light, dark) == (HELD[0][1], HELD_IN_THE_DARK[0][1])


def test_a_page_is_small(files: dict[str, Path]) -> None:
    for file in files.values():
        assert file.stat().st_size < 2_500_000


@pytest.mark.nightly
def test_verdicts_can_be_read_in_both(browser: Any, files: dict[str, Path]) -> None:
    found = Shown(browser, files["study"], "dark")
    for outcome in ("reproduced", "contradicted", "undecided", "not-testable"):
        # Two seeds decide nothing, so that the page shows the last but one alone.
        found.page.evaluate(f"document.querySelector('.verdict').className = 'verdict {outcome}'")
        style = "getComputedStyle(document.querySelector('.verdict'))"
        assert contrast(_colour(found, f"{style}.color"), _colour(found, f"{style}.backgroundColor")) >= 4.5
    found.page.close()


def _colour(shown: Shown, expression: str) -> tuple[float, ...]:
    text = shown.page.evaluate(expression)
    return tuple(float(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3])


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Contrast of two colours as WCAG 2 defines it, 1 to 21."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.nightly
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["run", "study", "wide", "long"])
def test_axe_finds_no_barrier(
    browser: Any, files: dict[str, Path], large: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    """The rules of axe-core for WCAG 2 A and AA and its best practices, but for what is inside plotly's drawings."""
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    shown = Shown(browser, (files | large)[name], scheme, width)
    shown.page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = shown.page.evaluate("axe.run({exclude: ['.js-plotly-plot']}, {resultTypes: ['violations']})")
    shown.page.close()
    barriers = [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found["violations"]]
    assert barriers == []
    assert len(found["passes"]) > 15, "it has looked"


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["run", "study", "wide", "long"])
def test_no_text_lies_on_another(
    browser: Any, files: dict[str, Path], large: dict[str, Path], name: str, width: int
) -> None:
    """Titles of panels and axes, and legends, have room of their own; the page does not scroll sideways."""
    shown = Shown(browser, (files | large)[name], width=width)
    boxes = shown.page.evaluate(
        """[...document.querySelectorAll(".plot.drawn")].filter(p => p.offsetParent).map(plot =>
             [...plot.querySelectorAll(".annotation-text, .xtitle, .legendtext")].map(text => {
               const box = text.getBoundingClientRect();
               return [text.textContent, box.left, box.top, box.right, box.bottom]; }))"""
    )
    wide = shown.page.evaluate("document.documentElement.scrollWidth")
    shown.page.close()
    assert wide == width
    assert sum(map(len, boxes)) > 20
    for texts in boxes:
        for (one, *a), (other, *b) in itertools.combinations(texts, 2):
            apart = a[2] <= b[0] + 2 or b[2] <= a[0] + 2 or a[3] <= b[1] + 2 or b[3] <= a[1] + 2
            assert apart, (one, other)
