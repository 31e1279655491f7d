"""The page in a real browser (Debian's chromium), before a real server."""

import shutil
import socket
import threading
import time
from importlib.resources import files
from typing import NamedTuple

import pytest

from everyitem.recommender import Recommender, load
from everyitem.serve import page as page_files
from everyitem.serve.history import SqliteHistory
from everyitem.serve.http import create_app
from everyitem.serve.live import LiveModel
from everyitem.serve.service import Service

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `bootstrap.py test`")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: `apt install chromium`")
expect = getattr(playwright, "expect", None)
KEY = "k" * 32


class Site(NamedTuple):
    url: str
    recommender: Recommender


@pytest.fixture(scope="module")
def sites(tiny_models, tmp_path_factory):
    """One model behind two servers: one for everyone, one that asks for a key."""
    import uvicorn

    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(tiny_models["pq"], folder / "model", ignore=shutil.ignore_patterns("training"))
    servers, threads, sites = [], [], []
    for name, keys in (("open", {}), ("closed", {"api_key": KEY, "admin_key": KEY})):
        service = Service(LiveModel(folder / "model"), SqliteHistory(folder / f"{name}.sqlite"), most_seconds=60.0)
        listener = socket.create_server(("127.0.0.1", 0))
        servers.append(uvicorn.Server(uvicorn.Config(create_app(service, **keys), log_level="error")))
        threads.append(threading.Thread(target=servers[-1].run, args=([listener],)))
        threads[-1].start()
        sites.append(Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", load(folder / "model")))
    until = time.monotonic() + 20
    while not all(server.started for server in servers) and time.monotonic() < until:
        time.sleep(0.01)
    yield sites
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        expect.set_options(timeout=10_000)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page; nothing on it may go wrong that the test did not ask for."""
    contexts, wrong = [], []

    def open_(url, *, width=1280, height=900, scheme="light", touch=False):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch, is_mobile=touch
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: "Content Security Policy" in message.text and wrong.append(message.text))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def site(sites):
    return sites[0]


@pytest.fixture
def page(opened, site):
    page = opened(site.url)
    expect(rows(page)).to_have_count(10)
    return page


def rows(page):
    return page.locator("#results > li")


def matches(page):
    return page.locator("#matches > li")


def shown(page):
    """Ids of the recommendations, once they are those of the last question."""
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    return rows(page).evaluate_all("rows => rows.map((row) => JSON.parse(row.dataset.id))")


def pictured(page):
    """The pictures, once they are those of the last question."""
    expect(page.locator("#pictures")).not_to_have_attribute("aria-busy", "true")
    return page.locator("#pictures")


def expected(site, history, k=10, **options):
    return site.recommender.answer([history], k, **options).frame["item_id"].to_list()


def title(site, item_id):
    return site.recommender.items["title"][int(site.recommender.positions([item_id])[0])]


def pick(page, site, *item_ids):
    for item_id in item_ids:
        page.get_by_role("combobox", name="Someone met").fill(item_id)
        matches(page).first.click()
        expect(page.locator("#picked > li").first).to_contain_text(title(site, item_id))


def test_every_file_of_the_page_is_served_and_shipped(served, tiny_models):
    client = served(tiny_models["pq"])
    names = {path.name for path in files(page_files).iterdir() if path.suffix in page_files.KINDS}
    assert names == {"page.js", "pictures.js", "combobox.js", "page.css", "icon.svg"}
    for path in ("", *(f"page/{name}" for name in names)):
        answer = client.get(f"/{path}")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert client.get("/page/__init__.py").status_code == 422
    html = client.get("/").text
    assert "<script>" not in html
    assert "style=" not in html


@needs_browser
def test_a_click_changes_the_recommendations_at_once(page, site):
    popular = shown(page)
    assert popular == expected(site, [])
    page.get_by_role("button", name=f"Add {title(site, popular[3])} to the history").first.click()
    expect(page.locator("#figures")).to_contain_text("exact")
    assert shown(page) == expected(site, [popular[3]])
    scanned = page.locator("#figures").inner_text()
    assert "of 400" in scanned
    assert "ms" in scanned
    page.get_by_role("button", name=f"Remove {title(site, popular[3])}").click()
    expect(page.locator("#said")).to_contain_text("most popular")
    assert shown(page) == popular


@needs_browser
def test_all_of_it_works_by_keyboard(page, site):
    box = page.get_by_role("combobox", name="Someone met")
    box.focus()
    page.keyboard.type("item-01")
    expect(matches(page).nth(2)).to_be_visible()
    expect(matches(page).filter(has_not_text="item-01")).to_have_count(0)  # the last letter counts
    found = matches(page).locator(".quiet").all_inner_texts()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(matches(page).nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    second = found[1].split(" · ")[0]
    expect(page.locator("#picked > li")).to_have_count(1)
    assert shown(page) == expected(site, [second])
    expect(box).to_be_focused()
    page.keyboard.type("no such thing")
    expect(matches(page)).to_contain_text("Nothing is called")
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox")).to_be_hidden()
    page.locator("#results .toggle").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".why").first).to_contain_text("score")
    pictured(page).locator(".choice input").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pictures figcaption strong")).to_have_text(title(site, shown(page)[1]))


@needs_browser
def test_a_filter_holds_for_everything_shown(page, site):
    pick(page, site, "item-003", "item-017")
    page.get_by_label("price at most").fill("40")
    page.get_by_label("in stock").select_option("yes")
    page.get_by_label("SQL condition").fill("category <> 'Bags' or price < 20")
    page.wait_for_function("() => document.querySelectorAll('#results > li').length && location.hash.includes('Bags')")
    where = "price <= 40 and in_stock and (category <> 'Bags' or price < 20)"
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    assert shown(page) == expected(site, ["item-003", "item-017"], where=where)
    category = site.recommender.items["category"].mode().sort()[0]
    page.get_by_role("button", name="Clear the filter").click()
    page.get_by_label("category").select_option(category)
    expect(page.locator("#results .item").filter(has_not_text=category)).to_have_count(0)
    assert shown(page) == expected(site, ["item-003", "item-017"], where=f"category = '{category}'")


@needs_browser
def test_a_bad_filter_says_so_and_changes_nothing(page, site):
    pick(page, site, "item-003")
    before = shown(page)
    condition = page.get_by_label("SQL condition")
    condition.fill("prize < 3")
    expect(page.locator("#condition-error")).to_contain_text("prize")
    expect(condition).to_have_attribute("aria-invalid", "true")
    assert rows(page).evaluate_all("rows => rows.map((row) => JSON.parse(row.dataset.id))") == before
    condition.fill("price < 0")
    expect(page.locator("#said")).to_have_text("No item passes this filter.")
    expect(page.locator("#condition-error")).to_be_hidden()
    condition.fill("item_id in ('item-100', 'item-101')")
    expect(page.locator("#said")).to_contain_text("Only 2 are eligible")


@needs_browser
def test_an_explanation_adds_up(page, site):
    pick(page, site, "item-003", "item-017")
    first = shown(page)[0]
    page.get_by_role("button", name=f"Why {title(site, first)}").first.click()
    numbers = page.locator(".why table").first.locator(".number")
    expect(numbers.last).to_be_visible()
    *shares, score = map(float, numbers.all_inner_texts())
    assert sum(shares) == pytest.approx(score, abs=0.001 * len(shares))
    assert score == pytest.approx(site.recommender.explain(["item-003", "item-017"], first).score, abs=0.001)
    expect(page.locator(".why table").last).to_contain_text(title(site, "item-017"))


@needs_browser
def test_the_picture_shows_sub_items_bounds_and_what_was_left_out(page, site):
    pick(page, site, "item-003", "item-017")
    expect(pictured(page).locator("svg")).to_have_count(3)
    splits, sub_items = site.recommender.index.num_splits, site.recommender.index.num_sub_items
    ticks = page.locator("#pictures .tick").evaluate_all(
        "paths => paths.map((path) => path.getAttribute('d').match(/M/g).length)"
    )
    assert ticks == [sub_items] * splits
    assert page.locator("#pictures .dot").count() == 10 * splits
    expect(page.locator("#pictures")).to_contain_text("eligible items")
    expect(page.locator("#pictures")).to_contain_text("scored in full")
    assert page.locator("#pictures rect.pruned").count() > page.locator("#pictures rect.scored").count() > 0
    pictured(page).locator(".choice label").nth(4).click()
    expect(page.locator("#pictures figcaption strong")).to_have_text(title(site, shown(page)[4]))
    page.get_by_label("SQL condition").fill("price < 0")
    expect(page.locator("#found-said")).to_contain_text("Nothing was searched")


@needs_browser
def test_an_item_is_added_found_recommended_and_taken_back(page, site):
    pick(page, site, "item-003")
    page.get_by_role("button", name="Add an item").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("alert")).to_contain_text("needs an id")
    dialog.get_by_label("item id").fill("item-003")
    dialog.get_by_label("price").fill("12.5")
    dialog.get_by_label("item id").fill("brand-new")
    dialog.get_by_label("title").fill("Brand new thing")
    before, asked = page.locator("#model").text_content().split()[-1], []

    def of_another_worker(route):  # which opens the change later
        asked.append(route.fetch())
        told = {"model_version": before} if len(asked) < 3 else {}
        route.fulfill(response=asked[-1], json=asked[-1].json() | told)

    page.route("**/v1/recommend", of_another_worker)
    dialog.get_by_role("button", name="Add").click()
    expect(page.locator("#toast")).to_contain_text("is in the catalogue")
    assert len(asked) == 3
    page.get_by_label("SQL condition").fill("price = 12.5")
    expect(rows(page).filter(has_text="Brand new thing")).to_have_count(1)
    page.get_by_role("combobox", name="Someone met").fill("brand new")
    expect(matches(page)).to_contain_text(["Brand new thing"])
    page.keyboard.press("Escape")
    page.locator("#toast button").click()
    expect(page.locator("#toast")).to_contain_text("no longer recommended")
    expect(rows(page).filter(has_text="Brand new thing")).to_have_count(0)


@needs_browser
def test_a_server_that_does_not_answer_is_asked_again(page, site):
    page.clock.install()
    down = [True]

    def route(route):
        if down:
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/**", route)
    page.locator("#results .plus").first.click()
    expect(page.locator("#trouble")).to_contain_text("does not answer")
    assert rows(page).count() == 10
    down.clear()
    page.clock.fast_forward(2100)
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#figures")).to_contain_text("exact")


@needs_browser
def test_a_busy_server_says_when_to_come_back(page):
    page.clock.install()
    busy = [True]

    def route(route):
        if not busy:
            return route.continue_()
        busy.clear()
        return route.fulfill(status=503, json={"error": "too much to do"}, headers={"Retry-After": "30"})

    page.route("**/v1/recommend", route)
    page.locator("#results .plus").first.click()
    expect(page.locator("#trouble")).to_contain_text("too much to do")
    page.clock.fast_forward(31_000)
    expect(page.locator("#figures")).to_contain_text("exact")
    expect(page.locator("#trouble")).to_be_hidden()


@needs_browser
def test_a_key_is_asked_for_until_it_is_the_right_one(opened, sites):
    page = opened(sites[1].url)
    for value in ("wrong", KEY):
        page.get_by_role("dialog").locator("input").fill(value)
        page.get_by_role("button", name="Go on").click()
    expect(rows(page)).to_have_count(10)


@needs_browser
def test_the_address_brings_everything_back(page, site):
    pick(page, site, "item-003", "item-017")
    page.get_by_label("price at most").fill("60")
    page.get_by_label("Show", exact=True).select_option("5")
    expect(rows(page)).to_have_count(5)
    before = shown(page)
    page.reload()
    expect(rows(page)).to_have_count(5)
    assert shown(page) == before
    expect(page.get_by_label("price at most")).to_have_value("60")
    expect(page.locator("#picked > li").first).to_contain_text(title(site, "item-017"))
    page.goto(f"{site.url}#%7B%22history%22%3A%5B%7B%7D%2Cnull%5D%2C%22filter%22%3A7%7D")
    page.reload()
    expect(page.locator("#said")).to_contain_text("most popular")


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_it_fits_and_can_be_read(opened, site, scheme, width):
    page = opened(site.url, width=width, scheme=scheme, touch=width < 500)
    expect(rows(page)).to_have_count(10)
    page.locator("#results .plus").first.click()
    expect(page.locator("#pictures svg")).to_have_count(3)
    page.locator("#results .toggle").first.click()
    expect(page.locator(".why table")).to_have_count(2)
    page.locator("#filter-open").evaluate("details => { details.open = true; }")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRASTS) == []
    if width < 500:
        assert (
            page.locator("button:visible").evaluate_all("all => all.map((b) => b.offsetHeight).filter((h) => h < 40)")
            == []
        )


CONTRASTS = """() => {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const numbers = (color) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = color;
    probe.fillRect(0, 0, 1, 1);
    return probe.getImageData(0, 0, 1, 1).data;
  };
  const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    const found = numbers(getComputedStyle(node).backgroundColor);
    return found[3] === 255 || !node.parentElement ? found : ground(node.parentElement);
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data.trim()).join("");
    if (!own || !node.checkVisibility() || node.closest("option, noscript")) continue;
    const style = getComputedStyle(node);
    const [ink, paper] = [numbers(node instanceof SVGElement ? style.fill : style.color), ground(node)].map(light);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) poor.push(`${own.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return poor;
}"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG 2, level AA)."""
