"""The page of a run: it stands alone, repeats itself, says what the results say, and works in a browser."""

import copy
import html
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from experiments import report, results
from experiments.report import words
from tests.experiments import browser, synthetic

needs_browser = pytest.mark.skipif(browser.PROGRAM is None, reason="no chromium on the PATH")


def written(folder, **options):
    """A made-up study's page, and what it was made of."""
    found, timing, data, predictions = synthetic.study(folder, **options)
    path = report.write(folder / "report.html", results=found, timing=timing, data=data, predictions=predictions)
    return path, found


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Two designs and the analytic one; eight methods, five seeds."""
    return written(tmp_path_factory.mktemp("full"), control=("nearest", "bilinear"), control_seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One seed, one design."""
    return written(tmp_path_factory.mktemp("single"), design=("frozen",), seeds=(0,))


@pytest.fixture(scope="module")
def chromium():
    driven = browser.Browser()
    yield driven
    driven.close()


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_page_stands_alone(full):
    path, _ = full
    page = path.read_text()
    assert not re.search(
        r"""(src|href|action)\s*=\s*["']?(https?:)?//|url\(\s*["']?http|@import|fetch\(|XMLHttp""", page
    )
    assert not re.search(r'(?:src|href)="(?!#|data:)', page.replace('src="${', ""))


def test_the_same_study_gives_the_same_bytes(single, tmp_path):
    path, _ = single
    again, _ = written(tmp_path / "again", design=("frozen",), seeds=(0,))
    assert again.read_bytes() == path.read_bytes()
    names = sorted(p.name for p in (path.parent / "figures").iterdir())
    assert names == sorted(p.name for p in (again.parent / "figures").iterdir())
    for name in names:
        assert (again.parent / "figures" / name).read_bytes() == (path.parent / "figures" / name).read_bytes()


def test_the_verdict_stands_at_the_head(full):
    path, found = full
    sentences = results.verdict(found)
    assert 1 <= len(sentences) <= 3
    head = path.read_text().partition("</header>")[0]
    for sentence in sentences:
        assert html.escape(words.typeset(sentence)) in head


def test_what_bilinear_hides_is_said_of_the_others(full):
    """Two methods that are both near `against` may still be told from each other."""
    _, found = full
    found = copy.deepcopy(found)
    of = next(iter(found["designs"].values()))
    near = {"bilinear": "ab", "bicubic": "a", "deconv": "ab", "transposed_conv": "b"}
    of["groups"][found["primary"]] = {name: near.get(name, "c") for name in of["methods"]}
    said = results.verdict(found)[0]
    assert "bicubic is ahead of transposed_conv all the same" in said
    assert said.count("ahead of") == 1


def test_a_variant_never_goes_by_the_papers_name(full):
    path, _ = full
    body = path.read_text().partition("</header>")[2].partition("<script")[0]
    assert "guided_filter (small)" in body
    assert not re.search(r">guided_filter<", body)


def test_only_what_the_evidence_holds_is_marked(full, single):
    path, found = full
    cells = re.findall(r'class="best"', path.read_text())
    expected = sum(len(names) for of in found["designs"].values() for names in of["best"].values())
    assert len(cells) == expected > 0
    page = single[0].read_text()
    assert 'class="best"' not in page
    assert "Nothing is marked as best" in page


def test_what_is_not_told_apart_is_said_with_the_seeds_it_would_take(full):
    path, found = full
    needed = found["designs"]["frozen"]["methods"]["transposed_conv"]["paired"][found["primary"]]["seeds_needed"]
    page = path.read_text()
    assert "Not told apart from bilinear: transposed_conv." in page
    assert f"transposed_conv {'1000 or more' if needed >= 1000 else f'about {needed}'}." in page


def test_one_seed_claims_no_interval(single):
    page = single[0].read_text()
    assert "one seed gives no interval" in page
    assert not re.search(r"\d\N{NO-BREAK SPACE}±", page)


def test_the_command_repeats_the_run():
    found = {"task": "segmentation", "design": ["frozen"], "seeds": [0, 1], "path": "/somewhere/data", "out": "/x"}
    found |= {"attention_gate": True, "stride": [4, 8], "learning_rate": [0.01], "control": None}
    assert " ".join(words.command(found)) == (
        "python -m experiments segmentation --design frozen --seeds 0 1 --path data --attention-gate "
        "--stride 4 8 --learning-rate 0.01"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"design": ("analytic",)},
        {"design": ("head",), "methods": ("carafe",), "seeds": (0, 1)},
        {"design": ("unet",), "methods": ("nearest", "bicubic"), "seeds": (0, 1), "images": 1},
    ],
    ids=["analytic alone", "one method", "one image"],
)
def test_small_studies_have_a_page_too(options, tmp_path):
    path, found = written(tmp_path, **options)
    page = path.read_text()
    assert "None" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.S)
    assert bool(found["designs"]) == ('id="closeups"' in page)


def test_figures_are_files_too(full):
    path, _ = full
    names = {p.stem for p in (path.parent / "figures").iterdir()}
    assert {"analytic-range", "analytic-curves", "frozen-differences", "frozen-cost", "frozen-close-up"} <= names
    for name in names:
        assert max(Image.open(path.parent / "figures" / f"{name}.png").size) >= 800
        drawn = ElementTree.parse(path.parent / "figures" / f"{name}.svg").getroot()
        assert drawn.tag.endswith("svg")
    text = (path.parent / "figures" / "frozen-differences.svg").read_text()
    assert "sub_pixel_conv</text>" in text  # text is text


# --- in a browser -----------------------------------------------------------------------------------------------------

COLUMN = """
(column) => [...document.querySelector("#table tbody").rows]
  .map((row) => [row.cells[0].textContent, row.cells[column].textContent])
"""
METHOD = 'document.querySelector(".method").textContent.split(" · ")[0]'


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_complaint_and_fits(full, single, chromium, width, dark):
    for path, _ in (full, single):
        chromium.open(path, width=width, dark=dark)
        assert chromium.run("document.documentElement.scrollWidth") <= width
        assert chromium.errors == []
        assert [url for url in chromium.requests if not url.startswith("data:")] == [path.as_uri()]


@needs_browser
def test_a_heading_sorts_numbers_as_numbers(full, chromium):
    path, found = full
    chromium.open(path)
    heads = chromium.run(
        '[...document.querySelectorAll("#table thead")[0].rows[0].cells].map((c) => c.textContent.trim())'
    )
    column = heads.index("ms/step")
    click = f'document.querySelectorAll("#table thead")[0].rows[0].cells[{column}].querySelector("button").click()'
    for order in (sorted, lambda values: sorted(values, reverse=True)):
        chromium.run(click) if order is not sorted else (chromium.run(click), chromium.run(click))
        rows = chromium.run(f"({COLUMN})({column})")
        values = [float(text) for _, text in rows]
        assert values == order(values)
        assert len(set(values)) == len(found["designs"]["frozen"]["methods"])
    # By text, 5.8 would come after 40.8.
    assert max(values) > 10 > min(values)


@needs_browser
def test_a_heading_sorts_by_keyboard_and_puts_what_has_no_figure_last(full, chromium):
    chromium.open(full[0])
    chromium.run('document.querySelectorAll("#table thead")[0].rows[0].cells[1].querySelector("button").focus()')
    for expected in ("descending", "ascending"):
        chromium.press("Enter")
        rows = chromium.run(f"({COLUMN})(1)")
        assert rows[-1] == ["bilinear", "–"]
        values = [float(text.split()[0].replace("−", "-")) for _, text in rows[:-1]]
        assert values == sorted(values, reverse=expected == "descending")
        assert chromium.run('document.querySelectorAll("#table thead th")[1].ariaSort') == expected
    chromium.run('document.querySelectorAll("#table thead")[0].rows[0].cells[0].querySelector("button").click()')
    names = [name for name, _ in chromium.run(f"({COLUMN})(1)")]
    assert names == sorted(names)


@needs_browser
def test_arrow_keys_flip_between_methods_on_the_same_close_up(full, chromium):
    path, found = full
    names = [results.shown_name(n, m) for n, m in found["designs"]["frozen"]["methods"].items()]
    chromium.open(path)
    chromium.run('document.querySelector(".viewer").focus()')
    seen, image = [], chromium.run('document.querySelector(".stage img").src')
    drawn = set()
    for _ in range(len(names) + 1):
        seen.append(chromium.run(METHOD))
        drawn.add(chromium.run('document.querySelector(".stage svg .predicted").getAttribute("d")'))
        chromium.press("ArrowRight")
    assert seen == [*names, names[0]]
    assert len(drawn) == len(names)
    assert chromium.run('document.querySelector(".stage img").src') == image
    chromium.press("ArrowLeft")
    chromium.press("ArrowLeft")
    assert chromium.run(METHOD) == names[-1]
    chromium.press("b")
    assert chromium.run(METHOD) == "bilinear"
    chromium.press("b")
    assert chromium.run(METHOD) == names[-1]
    chromium.press("2")
    assert chromium.run('document.querySelector(".stage img").src') != image
    assert chromium.run(METHOD) == names[-1]
    assert chromium.errors == []


@needs_browser
def test_buttons_flip_and_layers_hide(full, chromium):
    path, found = full
    names = list(found["designs"]["frozen"]["methods"])
    chromium.open(path)
    chromium.run('document.querySelector(".next").click()')
    assert chromium.run(METHOD) == names[1]
    chromium.run('document.querySelector(".previous").click()')
    chromium.run('document.querySelector(".previous").click()')
    assert chromium.run(METHOD).startswith(names[-1])
    shown = '(layer) => getComputedStyle(document.querySelector(`.stage path.${layer}`)).display !== "none"'
    for layer, before in (("true", True), ("predicted", True), ("wrong", False)):
        assert chromium.run(f'({shown})("{layer}")') is before
        chromium.run(f'document.querySelector(".layers input[value={layer}]").click()')
        assert chromium.run(f'({shown})("{layer}")') is not before
    chromium.run('document.querySelectorAll(".tabs button")[1].click()')
    assert chromium.run('document.querySelectorAll(".names button").length') == 2
    assert chromium.errors == []


@needs_browser
def test_the_error_map_marks_the_wrong_pixels(single, tmp_path, chromium):
    """Each wrong pixel of the first close-up is a square of the map; counted here from the label maps."""
    path, _ = single
    chromium.open(path)
    data = chromium.run('JSON.parse(document.querySelector(".viewer-data").textContent)')
    closeup = data["closeups"][0]
    unpacked = [
        [label for label, n in zip(runs[::2], runs[1::2], strict=True) for _ in range(n)]
        for runs in (closeup["truth"], closeup["maps"][0])
    ]
    assert len(unpacked[0]) == closeup["side"] ** 2
    wrong = {i for i, (a, b) in enumerate(zip(*unpacked, strict=True)) if a != b}
    squares = chromium.run('document.querySelector(".stage .wrong").getAttribute("d")')
    at = {int(y) * closeup["side"] + int(x) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", squares)}
    assert at == wrong
    assert wrong


LEGIBLE = """
(() => {
  const luminance = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  const faults = [];
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  for (const figure of document.querySelectorAll("figure:has(svg[role=img])")) {
    const seen = [...figure.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width);
    if (seen.length !== 1) faults.push(`${seen.length} drawings of one figure`);
  }
  for (const svg of document.querySelectorAll("figure svg[role=img]")) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const zoom = frame.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent);
    const boxes = texts.map((text) => text.getBoundingClientRect());
    texts.forEach((text, i) => {
      const told = `${svg.ariaLabel}: ${text.textContent}`;
      const size = zoom * parseFloat(text.getAttribute("font-size"));
      if (size < 10) faults.push(`${told}: ${size} px`);
      const [light, dark] = [luminance(getComputedStyle(text).fill), paper].sort((a, b) => b - a);
      if ((light + 0.05) / (dark + 0.05) < 4.5) faults.push(`${told}: faint`);
      const a = boxes[i];
      const inside = a.left > frame.left - 2 && a.right < frame.right + 2 && a.bottom < frame.bottom + 2;
      if (!inside) faults.push(`${told}: cut`);
      boxes.slice(i + 1).forEach((b, j) => {
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 1.5 && y > 4) faults.push(`${told} lies over ${texts[i + 1 + j].textContent}`);
      });
    });
  }
  return faults;
})()
"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_figures_are_legible(full, chromium, width, dark):
    """No text is smaller than 10 pixels, faint, cut, or over another."""
    chromium.open(full[0], width=width, dark=dark)
    assert chromium.run(LEGIBLE) == []
