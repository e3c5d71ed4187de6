"""Pages in a real browser: they load nothing, fit a phone, can be read in the dark and printed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, find_chromium, running_chromium
from pages import full_comparison, full_run

from deit_transfer.html_report.render import comparison_html, run_html

PHONE, DESKTOP = 390, 1100
KINDS = ("run", "comparison")
LONG_NAME = "Stizostedion_vitreum_(Walleye)_" * 4

# the lowest ratio of luminances, by WCAG 2, between any text and what is behind it
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, under) => top.slice(0, 3).map(
    (v, i) => (v * top[3] + under[i] * (255 - top[3])) / 255);
  const behind = node => {
    const layers = [];
    for (let n = node; n; n = n.parentElement) layers.push(getComputedStyle(n).backgroundColor);
    return layers.reverse().reduce((under, c) => over(rgba(c), under), [255, 255, 255]);
  };
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let worst = [99, ''];
  for (const node of document.body.querySelectorAll('*')) {
    const own = [...node.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || node.closest('.skip')) continue;
    const style = getComputedStyle(node), ground = behind(node);
    const ink = over(rgba(node.closest('svg') ? style.fill : style.color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 120)];
  }
  return worst;
})()
"""
SPILLED = """
[...document.body.querySelectorAll('*')].filter(node => !node.closest('.scroll, pre, .skip')
  && node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(node => node.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with running_chromium(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of each kind, with names that are long and names that are code."""
    place = tmp_path_factory.mktemp("pages")
    names = ("<script>document.title = 'taken over'</script>", LONG_NAME, "owl")
    (place / "run.html").write_text(run_html(full_run(names)), encoding="utf-8")
    page = comparison_html(full_comparison(names))
    (place / "comparison.html").write_text(page, encoding="utf-8")
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_loaded_and_nothing_fails(browser: Browser, folder: Path, kind: str) -> None:
    browser.open(folder / f"{kind}.html")
    asked = [event["request"]["url"] for event in browser.reported("Network.requestWillBeSent")]
    others = [url for url in asked if not url.startswith("data:")]
    assert others == [(folder / f"{kind}.html").resolve().as_uri()]
    assert browser.reported("Network.loadingFailed") == []
    assert browser.reported("Log.entryAdded") == []
    assert browser.reported("Runtime.exceptionThrown") == []
    assert browser.evaluate("document.title") != "taken over"
    assert browser.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_can_be_decoded(browser: Browser, folder: Path, kind: str) -> None:
    browser.open(folder / f"{kind}.html")
    widths = browser.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert widths
    assert min(widths) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [320, PHONE, DESKTOP])
def test_nothing_spills_over_the_side(
    browser: Browser, folder: Path, kind: str, width: int
) -> None:
    browser.open(folder / f"{kind}.html", width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(SPILLED) == []
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(
    browser: Browser, folder: Path, kind: str, scheme: str
) -> None:
    browser.open(folder / f"{kind}.html", scheme=scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    ratio, where = browser.evaluate(CONTRAST)
    assert ratio >= 4.5, where  # WCAG 2.2, success criterion 1.4.3


def test_charts_draw_their_lines_within_their_frame(browser: Browser, folder: Path) -> None:
    browser.open(folder / "run.html", width=PHONE)
    outside = browser.evaluate("""
      [...document.querySelectorAll('.chart > svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('path, circle, text')].filter(part => {
          const box = part.getBoundingClientRect();
          return box.left < frame.left - 1 || box.right > frame.right + 1
            || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
        }).map(part => part.outerHTML);
      })""")
    assert outside == []
    assert browser.evaluate("document.querySelectorAll('.chart path.line').length") > 2


@pytest.mark.parametrize("kind", KINDS)
def test_links_lead_to_what_they_name(browser: Browser, folder: Path, kind: str) -> None:
    browser.open(folder / f"{kind}.html", width=PHONE)
    for number in range(browser.evaluate("document.querySelectorAll('nav a').length")):
        link = f"document.querySelectorAll('nav a')[{number}]"
        browser.evaluate(f"scrollTo(0, 0); {link}.click()")
        top = browser.evaluate(
            f"document.querySelector({link}.getAttribute('href')).getBoundingClientRect().top"
        )
        assert -2 <= top <= 844


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_prints_on_paper(browser: Browser, folder: Path, kind: str) -> None:
    browser.open(folder / f"{kind}.html", scheme="dark")
    pdf = browser.print_pdf()
    assert pdf.startswith(b"%PDF-")
    pages = max(int(n) for n in re.findall(rb"/Count (\d+)", pdf))
    assert 2 <= pages <= 12
    # on paper the ground is white, whatever the screen prefers
    browser.open(folder / f"{kind}.html", scheme="dark", media="print")
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
