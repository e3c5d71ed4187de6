"""The page: everything escaped, nothing loaded, and charts and thumbnails that show what is so."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deit_transfer.html_report.page_values import (
    ArmRow,
    ClassRow,
    ComparisonPage,
    ConfusedRow,
    HeadRow,
    MatrixCell,
    MatrixRow,
    MistakePicture,
    RunPage,
    SettingRow,
    Table,
)
from deit_transfer.html_report.render import comparison_html, is_report, run_html
from deit_transfer.html_report.sentences import how, run_cautions, run_sentences
from deit_transfer.html_report.svg_charts import FRAME, Curve, line_chart, nice_ticks
from deit_transfer.html_report.thumbnails import LONGEST_SIDE, spotlight, thumbnail

EVIL = "<script>alert('x')</script>\"onerror=\"a()\u202e\x1b[31m & co"
SPELLED_OUT = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;onerror=&#34;a()"
LOADS = re.compile(r"""(?:src|href|poster|data|action)\s*=\s*["']?\s*(?:https?:|//|file:)""", re.I)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


class Elements(HTMLParser):
    """Collect what a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def make_run(text: str = "cat", *, wrong: bool = True) -> RunPage:
    curve = Curve(name=text, x=[1, 2, 3], y=[10.0, None, 30.0])
    chart = line_chart([curve], title=text, x_title=text, y_title=text)
    assert chart is not None
    cell = MatrixCell(images=3, percent=75.0, heat=0.75, right=True)
    mistake = MistakePicture(text, text, "dog", 91.0, 2.0, 3.9, thumbnail(PIXELS))
    return RunPage(
        anchor="run-1",
        title=text,
        folder=text,
        sentences=[text, text],
        cautions=[text],
        facts=[(text, text)],
        heads=[HeadRow(text, 80.0, 70.0, 90.0, 99.0, 80.0, 0.5)] * 3,
        charts=[chart],
        epochs=Table([text], [[text]]),
        classes=[ClassRow(text, 4, 75.0, 75.0, 75.0)],
        matrix=[MatrixRow(text, [cell])],
        confused=[ConfusedRow(text, "dog", 1, 25.0)],
        wrong=1,
        sure_and_wrong=1,
        worst=[mistake] if wrong else [],
        confident=[mistake] if wrong else [],
        pictures_note=text,
        attention=[],
        recipe_base=text,
        settings=[SettingRow(text, text, text)],
        recipe=["[data]", f'dataset = "{text}"'],
        environment=[(text, text)],
        provenance=[(text, text)],
    )


def make_comparison(text: str = "cat") -> ComparisonPage:
    return ComparisonPage(
        title=text,
        answer=text,
        sentences=[text],
        differences=[text],
        cautions=[text],
        arm_titles=[text],
        arms=[
            ArmRow(text, 80.0, 75.0, 85.0, text, [text], True),
            ArmRow("alone", 0.0, None, None, "", [text], False),
        ],
        charts=[],
        figures=[],
        tables=[(text, Table([text], [[text]]))],
        classes=Table(["class", text], [[text, "50.0"]]),
        runs=[make_run(text)],
        missing_runs=[text],
        setup=[(text, text)],
    )


@pytest.mark.parametrize("page", [run_html(make_run(EVIL)), comparison_html(make_comparison(EVIL))])
def test_names_from_disk_cannot_become_markup(page: str) -> None:
    elements = Elements(page)
    assert not elements.all("script")
    assert not [name for _, attributes in elements.found for name in attributes if name[:2] == "on"]
    assert SPELLED_OUT in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\\u202e\\x1b[31m &amp; co" in page


@pytest.mark.parametrize("page", [run_html(make_run()), comparison_html(make_comparison())])
def test_a_page_loads_nothing(page: str) -> None:
    assert not LOADS.search(page)
    assert "url(" not in page
    assert "@import" not in page
    policy = next(m for m in Elements(page).all("meta") if m.get("http-equiv"))["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:")
    assert all(str(image["src"]).startswith("data:") for image in Elements(page).all("img"))


@pytest.mark.parametrize("page", [run_html(make_run()), comparison_html(make_comparison())])
def test_a_page_can_be_read_without_eyes(page: str) -> None:
    elements = Elements(page)
    assert elements.found[0][0] == "html"
    assert elements.all("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in elements.all("img"))
    pictures = [svg for svg in elements.all("svg") if svg.get("aria-hidden") is None]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in pictures)
    assert all(head.get("scope") in ("row", "col") for head in elements.all("th"))
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("page", [run_html(make_run()), comparison_html(make_comparison())])
def test_every_link_leads_somewhere_in_the_page(page: str) -> None:
    elements = Elements(page)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [str(link["href"]) for link in elements.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_a_run_without_mistakes_has_no_gallery() -> None:
    page = run_html(make_run(wrong=False))
    assert "Worst mistakes" not in page
    assert 'href="#mistakes"' not in page


def test_our_pages_are_told_from_other_files() -> None:
    assert is_report(run_html(make_run())[:2000])
    assert not is_report("<!doctype html><title>my thesis</title>")


def test_a_chart_places_its_points_between_the_axes() -> None:
    chart = line_chart(
        [Curve(name="a", x=[0, 5, 10], y=[0.0, 50.0, 100.0])],
        title="t",
        x_title="x",
        y_title="y",
    )
    assert chart is not None
    first, middle, last = chart.lines[0].markers
    assert (first.x, first.y) == (FRAME.left, FRAME.bottom)
    assert (middle.x, middle.y) == ((FRAME.left + FRAME.right) / 2, (FRAME.bottom + FRAME.top) / 2)
    assert (last.x, last.y) == (FRAME.right, FRAME.top)
    assert [tick.text for tick in chart.x_ticks] == ["0", "2", "4", "6", "8", "10"]
    assert "a ends at 100.0" in chart.description


def test_a_missing_value_leaves_a_gap() -> None:
    curve = Curve(name="a", x=[1, 2, 3, 4, 5], y=[1.0, 2.0, None, float("nan"), 5.0])
    chart = line_chart([curve], title="t", x_title="x", y_title="y")
    assert chart is not None
    assert re.sub(r"[^ML]", "", chart.lines[0].path) == "MLM"


def test_a_chart_without_a_point_is_none() -> None:
    curve = Curve(name="a", x=[1], y=[None])
    assert line_chart([curve], title="t", x_title="x", y_title="y") is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 27000), (81.99, 88), (5, 5), (-3, 0.2), (1e-9, 2e-9), (0, 0)]
)
def test_ticks_are_few_even_and_reach_over_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    assert steps[0] > 0
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9


def decoded(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))


def test_a_small_picture_is_kept_pixel_by_pixel() -> None:
    small = thumbnail(PIXELS)
    assert small.coarse
    assert (small.width, small.height) == (32, 24)
    assert np.array_equal(np.asarray(decoded(small.source)), PIXELS)


def test_a_large_picture_is_made_small_and_keeps_its_shape() -> None:
    large = thumbnail(np.full((300, 600, 3), (200, 30, 30), np.uint8))
    assert (large.width, large.height) == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert not large.coarse
    assert len(large.source) < 4000
    assert np.abs(np.asarray(decoded(large.source)).mean((0, 1)) - (200, 30, 30)).max() < 4


def test_light_falls_on_what_is_attended_to() -> None:
    lit = spotlight(np.full((40, 40, 3), (200, 100, 100), np.uint8), np.eye(2, dtype=np.float32))
    assert lit[2, 2].tolist() == [200, 100, 100]
    dim = lit[2, -3]
    assert dim.max() < 60
    assert len(set(dim.tolist())) == 1


RESULT = {
    "model": "deit_tiny_patch16_224",
    "dataset": "birds",
    "pretrained": "imagenet",
    "top1": 87.18,
    "top1_ci95": [86.51, 87.82],
    "num_test_images": 10000,
    "images_seen": 13500,
    "epochs": 3,
    "seconds": 989.0,
    "device": "cpu",
    "precision": "fp32",
    "seed": 0,
}
CLASSES = [ClassRow("owl", 10, 90.0, 100.0, 95.0), ClassRow("wren", 10, 60.0, 50.0, 54.0)]


def test_the_answer_comes_first_in_words() -> None:
    told = run_sentences(RESULT, CLASSES, [ConfusedRow("wren", "owl", 4, 40.0)])
    assert told == [
        "deit_tiny_patch16_224, fine-tuned from ImageNet weights, gets 87.2% of the 10,000 test "
        "images of birds right (95% interval 86.5 to 87.8).",
        "It is best at owl (100.0% found) and worst at wren (50.0%). Its most frequent mistake is "
        "to take wren for owl: 40.0% of those images.",
        "It saw 13,500 training images in 3 epochs, which took 16m29s on cpu in fp32.",
    ]


def test_both_heads_are_told_of_a_distilled_network() -> None:
    heads = {"class": 85.0, "distill": 86.0, "joint": 87.18}
    told = run_sentences({**RESULT, "heads": heads, "teacher_top1": 90.0}, [], [])[1]
    assert "class head alone gets 85.0%" in told
    assert "distillation head 86.0%" in told
    assert "teacher gets 90.0%" in told


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("none", "trained from scratch"),
        (None, "trained from scratch"),
        ("imagenet", "fine-tuned from ImageNet weights"),
        ("/weights/deit.safetensors", "fine-tuned from deit.safetensors"),
    ],
)
def test_what_a_run_came_from(start: str | None, expected: str) -> None:
    assert how({"pretrained": start}) == expected


def test_cautions_name_what_flatters_a_figure() -> None:
    result = {**RESULT, "selects_on_test": True, "counts": {"train": 90, "val": 10, "test": 5}}
    told = " ".join(run_cautions(result, train_limited=True, unreadable=2))
    assert "selected on the test images" in told
    assert "Only 100 labeled images" in told
    assert "2 test images could not be read" in told
    assert run_cautions({**RESULT, "seed": None}, train_limited=False, unreadable=0) == []
