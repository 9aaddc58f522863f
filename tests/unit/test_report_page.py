"""The report in a real browser, headless: no error, nothing fetched, every control, every width, dark, paper."""

import shutil

import pytest

from pdbench.analysis.audit import Finding
from pdbench.analysis.sla import parse
from pdbench.output import report
from pdbench.output.figures import View
from pdbench.read.results import read_study

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements-test.txt")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium to open the report in: apt-get install chromium")
HOSTILE = "<!--<script><img src=x onerror=alert(1)>"
DARK, LIGHT = "rgb(22, 24, 28)", "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory, write_folder, level_content, make_manifest):
    """A report of three arms and two repeats; names that would run as code, and a long one."""
    root = tmp_path_factory.mktemp("report")
    latencies = {4: 10.0, 8: 12.0, 16: 20.0}
    levels = {
        f"conc{k}{again}.json": level_content(k, requests=5 * k, median_tpot_ms=tpot * factor, duration=factor)
        for k, tpot in latencies.items() for again, factor in (("", 1.0), ("_rep2", 1.1))
    }  # fmt: skip
    names = (f"{HOSTILE}_2xtp1", "b_2xtp1", f"pack_1xtp1-1xtp2_{'x' * 60}")
    folders = [write_folder(root, f"tiny_itl100_otl11_mixed_{name}", levels) for name in names]
    make_manifest(layout="p1xtp1-d1xtp2", mode="pd-pack", command=f"launch {HOSTILE} " + 100 * "y").write(folders[2])
    finding = Finding("odd decode", (str(folders[1]),), HOSTILE, "why", "fix")
    page = report.render(read_study(folders), View(sla=parse("tpot=15")), 5.0, [finding])
    (root / "report.html").write_text(page, encoding="utf-8")
    return root / "report.html"


@pytest.fixture(params=[(1400, "light")])
def page(browser, path, request):
    """The report, opened; at the end nothing must have gone wrong, and nothing but the file been asked for."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(120_000)  # a shared machine is now fast, now slow
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda one: asked.append(one.url) if not one.url.startswith(("data:", "blob:")) else None)
    page.goto(path.as_uri())
    page.wait_for_selector("#chart .scatterlayer .trace")
    yield page
    page.close()
    assert wrong == [] and asked == [path.as_uri()]


def texts(page, selector):
    return [text.strip() for text in page.locator(selector).all_text_contents()]


def background(page):
    """Of the page and of the chart."""
    return page.evaluate("['body', '#chart .main-svg'].map(at => getComputedStyle(document.querySelector(at)).backgroundColor)")


@pytest.mark.parametrize("page", [(w, s) for w in (360, 1400) for s in ("light", "dark")], indirect=True, ids=str)
def test_every_width_and_both_schemes(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert background(page) == [DARK if dark else LIGHT] * 2
    assert page.locator("#chart .main-svg").first.bounding_box()["width"] <= page.viewport_size["width"]


def test_the_chart_follows_the_scheme(page):
    page.emulate_media(color_scheme="dark")
    playwright.expect(page.locator("#chart .main-svg").first).to_have_css("background-color", DARK)
    assert background(page) == [DARK, DARK]


def test_arms_switch_off_and_on(page):
    shown = page.locator("#chart .scatterlayer .trace")
    assert shown.count() == 3
    page.get_by_label("2xtp1 b", exact=True).uncheck()
    assert shown.count() == 2
    page.get_by_role("button", name="none").click()
    assert shown.count() == 0
    page.get_by_role("button", name="all").click()
    assert shown.count() == 3


def test_axes_are_chosen(page):
    assert texts(page, "#chart .xtitle") == ["Median TPOT (ms)"] and page.locator("#chart .shapelayer path").count() == 1
    page.get_by_label("x", exact=True).select_option("level")
    page.get_by_label("y", exact=True).select_option("median_ttft_ms")
    assert texts(page, "#chart .xtitle") == ["Concurrency (requests in flight)"]
    assert texts(page, "#chart .ytitle") == ["Median TTFT (ms)"]
    assert page.locator("#chart .shapelayer path").count() == 0  # the target bounds neither
    page.get_by_label("log x").check()
    assert page.evaluate("chart.layout.xaxis.type") == "log"


def test_dominated_points_fade_among_the_arms_shown(page):
    # Over repeats of factor 1 and 1.1, medians of TPOT are 10.5, 12.6 and 21 ms in all arms; throughput of the PD arm is
    # 2 / 3 of the collocated, for it has 3 GPUs: its points are dominated, and alone they are not.
    opacity = "chart.data.map(trace => trace.visible ? trace.marker.opacity[0] : null)"
    assert page.evaluate(opacity) == [1, 1, 0.35]
    for box in page.locator("#arms input").all()[:2]:
        box.uncheck()
    assert page.evaluate(opacity) == [None, None, 1]


def test_hovering_tells_arm_level_metrics_and_repeats(page):
    point = page.locator("#chart .scatterlayer .trace").nth(2).locator(".points path").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    reported = page.locator("#chart .hoverlayer").text_content()
    for words in ("p1xtp1-d1xtp2 pack", "Concurrency (requests in flight): 4", "Median TPOT (ms): 10.50", "2 repeats, medians"):
        assert words in reported


def test_no_button_sends_the_chart_away(page):
    """plotly.js 4 has `Share chart...`, which opens all of it at cloud.plotly.com."""
    page.locator("#chart").hover()
    titles = page.locator("#chart .modebar-btn").evaluate_all("all => all.map(one => one.getAttribute('data-title') || '')")
    assert titles and not [title for title in titles if "share" in title.lower() or "cloud" in title.lower()]
    assert page.evaluate("chart._context.plotlyServerURL") == "" and not page.evaluate("chart._context.showSendToCloud")


def test_tables_sort_by_mouse_and_keyboard(page):
    header = page.locator("#measurements th").filter(has_text="conc.")
    assert header.get_attribute("aria-sort") == "none"
    header.get_by_role("button").click()
    levels = "#measurements tbody td:nth-child(3)"
    assert header.get_attribute("aria-sort") == "ascending" and texts(page, levels) == 6 * ["4"] + 6 * ["8"] + 6 * ["16"]
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending" and texts(page, levels)[0] == "16"
    page.locator("#measurements th button").first.press("Space")
    assert header.get_attribute("aria-sort") == "none" and texts(page, "#measurements tbody th")[-1].startswith("p1xtp1")


def test_what_is_not_known_sorts_last_either_way(page):
    """By how much the best is better: it has no such number itself."""
    headers = texts(page, "#decision th button")
    (column,) = [number for number, words in enumerate(headers) if words.startswith("best is")]
    for _ in range(2):
        page.locator("#decision th button").nth(column).click()
        cells = texts(page, f"#decision tbody tr > :nth-child({column + 1})")
        assert cells[-1] == "-" and cells.count("-") == 1


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True, ids=str)
def test_the_reason_and_the_price_are_within_a_laptops_window(page):
    for words in ("why not more", "price of 1M"):
        box = page.locator("#decision th").filter(has_text=words).first.bounding_box()
        assert box["x"] + box["width"] <= 1280, words


@pytest.mark.parametrize("page", [(1400, "dark")], indirect=True, ids=str)
def test_it_prints_light_and_whole(page, tmp_path):
    page.evaluate("""addEventListener("beforeprint", () => {
        const style = getComputedStyle(chart.querySelector(".main-svg"));
        window.printed = [style.backgroundColor, chart.layout.width, document.querySelector("details").open];
    })""")
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.evaluate("window.printed") == [LIGHT, 680, True]
    assert background(page)[1] == DARK  # the screen is as it was


def test_parts_are_named_for_those_who_do_not_see_them(page):
    assert page.locator("h1").count() == 1
    assert page.locator("section").count() == page.get_by_role("region").count() - page.locator(".scroll").count()
    assert page.locator("table th:not([scope])").count() == 0
    assert page.evaluate("[...document.querySelectorAll('main input, main select')].every(control => control.labels.length)")
