# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo as a person meets it: `dinov3seg demo` in a process of its own, its page in a real headless Chromium.

Skipped where there is no browser, playwright or Gradio; `make demo-test` installs them, and fails rather than skips.
DINOV3SEG_SCREENSHOTS names a folder for pictures of the page.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from dinov3seg_hf.about import EMBEDDED_TITLE
from dinov3seg_hf.demo.address import MAX_ADDRESS
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.model.image_input import read_label_map

REQUIRED = os.environ.get("DINOV3SEG_BROWSER") == "required"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ["chromium"]

pytestmark = pytest.mark.skipif(bool(MISSING) and not REQUIRED, reason=f"needs {', '.join(MISSING)}: make demo-test")

PATIENCE = 300_000  # ms: machines of CI are shared
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
WORDS = "black plain background, red plain triangle, yellow plain triangle, purple striped square"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, folder of temporary files) of `dinov3seg demo`."""
    if MISSING:
        pytest.fail(f"The browser test was asked for and needs {', '.join(MISSING)}.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tmp_path_factory.mktemp("tmp")
    process = subprocess.Popen(
        [sys.executable, "-m", "dinov3seg_hf", "demo", "--device", "cpu", "--port", str(port)],
        env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE / 1000
    while True:
        try:
            urllib.request.urlopen(f"{address}/config", timeout=5).close()
            break
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the demo did not start: {process.communicate()[1][-2000:]}")
            time.sleep(0.3)
    yield address, scratch
    process.send_signal(signal.SIGTERM)  # as services are stopped; Ctrl+C takes the same way
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert not list(scratch.glob("dinov3seg-demo-*")), "uploads were left behind"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # --no-sandbox: Chromium refuses to run as root, as in containers, with it
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page as it shows its first example; fails at errors in the console and requests to other hosts."""
    contexts, problems = [], []

    def open_(wait=True, fragment="", script="", **options):
        options = {"viewport": {"width": 1360, "height": 900}, "accept_downloads": True, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((server[0], "data:", "blob:")) else problems.append(request.url)
            ),
        )
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.goto(server[0] + fragment)
        if wait:
            page.wait_for_selector("#viewer .viewer[data-state=result]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems


def facts(page):
    return page.inner_text("#viewer .facts")


def chips(page):
    return page.eval_on_selector_all("#words .chips li .name", "names => names.map(name => name.textContent)")


def legend(page):
    return page.eval_on_selector_all("#viewer .row .name", "names => names.map(name => name.textContent)")


def after(page, action):
    """Does something and waits until another segmentation is shown."""
    page.evaluate(
        """() => { window.shown = 0; window.watcher?.disconnect();
        // of the whole viewer: an update from the server can replace the element of the facts
        window.watcher = new MutationObserver(changes =>
            window.shown += changes.some(change => change.target.matches(".facts")));
        window.watcher.observe(document.querySelector("#viewer"), {childList: true, subtree: true}); }"""
    )
    action()
    page.wait_for_function("() => window.shown > 0")


def type_words(page, words, clear=True):
    if clear:  # its answer comes, too: not to be taken for that of the words
        after(page, lambda: page.click("#words .clear"))
    page.fill("#words input", words)
    after(page, lambda: page.press("#words input", "Enter"))


def drawn(page):
    """What the canvas shows: (mean opacity, checksum)."""
    return page.evaluate(
        """() => { const c = document.querySelector("#viewer canvas");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let alpha = 0, hash = 0;
        for (let i = 0; i < d.length; i++) { hash = (Math.imul(hash, 31) + d[i]) | 0; if (i % 4 === 3) alpha += d[i]; }
        return [4 * alpha / d.length, hash]; }"""
    )


def download(page, button, folder):
    with page.expect_download() as waiting:
        page.click(button)
    path = Path(folder) / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def screenshot(page, name):
    if folder := os.environ.get("DINOV3SEG_SCREENSHOTS"):
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "my scene.png"
    Image.fromarray(draw_scene(61, "all", (96, 144), num_objects=(4, 5)).image).save(path)
    return str(path)


def test_from_upload_to_downloads(open_page, scene, tmp_path):
    page = open_page()
    screenshot(page, "light")
    page.click("#photo button[aria-label='Remove Image']")
    page.wait_for_selector("#viewer .viewer[data-state=empty]")
    page.click("#words .clear")
    page.set_input_files("#photo input[type=file]", scene)
    page.wait_for_selector("#viewer .viewer[data-state=error]")  # no words yet
    assert "No words" in page.inner_text("#viewer .message")
    type_words(page, WORDS, clear=False)
    page.wait_for_selector("#viewer .viewer[data-state=result]")
    assert set(legend(page)) <= set(WORDS.split(", ")) and len(legend(page)) >= 2

    # another word: the image is not looked at again, nor the other words
    type_words(page, "blue striped circle", clear=False)
    assert "image already encoded" in facts(page) and "1 new label encoded" in facts(page)
    assert EMBEDDED_TITLE in facts(page) and "144 × 96 px" in facts(page)  # noqa: RUF001 as the page shows it
    first = page.locator("#words .chips .remove").first
    after(page, first.click)
    assert "all words already encoded" in facts(page)
    after(page, lambda: page.click("#words .undo"))
    assert "black plain background" in page.inner_text("#words .chips")

    page.locator("#viewer .threshold input").fill("40")
    page.locator("#viewer .opacity input").fill("80")
    shown_legend = legend(page)
    label_map = read_label_map(download(page, "#download-label-map", tmp_path)).numpy()
    content = json.loads(download(page, "#download-json", tmp_path).read_text())
    with Image.open(download(page, "#download-overlay", tmp_path)) as picture:
        assert picture.format == "PNG" and picture.width >= 512
    assert content["threshold"] == 0.4 and label_map.shape == (content["height"], content["width"]) == (96, 144)
    assert {segment["label"] for segment in content["segments"]} == set(shown_legend) - {"none of these"}
    for segment in content["segments"]:
        assert (label_map == segment["index"]).sum() == segment["num_pixels"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("my_scene")) == [
        "my_scene.json",
        "my_scene_labels.png",
        "my_scene_overlay.png",
    ]


def test_a_browser_that_is_too_old_says_so(open_page):
    page = open_page(wait=False, script="delete window.DecompressionStream")
    page.wait_for_selector("#viewer .viewer[data-state=error]")
    assert "This browser is too old" in page.inner_text("#viewer .message")


def test_viewer_answers_to_the_hand_without_asking_the_server(open_page):
    page = open_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    before = drawn(page)

    page.locator("#viewer .opacity input").fill("10")
    assert drawn(page)[0] < before[0]
    page.locator("#viewer .opacity input").fill("55")

    row = page.locator("#viewer .row").first
    label = row.locator(".name").inner_text()
    row.click()
    assert row.get_attribute("aria-pressed") == "true"
    assert page.get_attribute("#viewer .viewer", "data-solo") == label
    page.mouse.move(0, 0)
    screenshot(page, "solo")
    page.keyboard.press("Escape")
    assert page.get_attribute("#viewer .viewer", "data-solo") == ""
    assert drawn(page) == before

    canvas = page.locator("#viewer canvas").bounding_box()
    page.mouse.move(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 3)
    assert any(label in page.inner_text("#viewer .tip") for label in legend(page))

    page.locator("#viewer .threshold input").fill("100")
    assert legend(page) == ["none of these"]
    page.locator("#viewer .threshold input").fill("0")

    page.check("#viewer input[value=heat]", force=True)
    page.locator("#viewer .row").nth(1).click()
    assert page.inner_text("#viewer .scale .what") == legend(page)[1]
    assert drawn(page) != before
    screenshot(page, "heat")
    page.locator("#viewer .absent button").first.click()  # why was it not found?
    assert page.inner_text("#viewer .scale .what") == page.locator("#viewer .absent button").first.inner_text()

    page.check("#viewer input[value=compare]", force=True)
    page.locator("#viewer .split").fill("30")
    assert "30%" in page.locator("#viewer .top").evaluate("top => top.style.clipPath")
    screenshot(page, "compare")
    assert not [url for url in requests if "queue" in url or "upload" in url]


def test_keyboard_alone_suffices(open_page):
    page = open_page()
    page.focus("#words input")
    page.keyboard.type("blue striped circle")
    after(page, lambda: page.keyboard.press("Enter"))
    assert "blue striped circle" in page.inner_text("#words .chips")
    after(page, lambda: page.keyboard.press("Backspace"))
    assert "blue striped circle" not in page.inner_text("#words .chips")
    page.focus("#viewer .row")
    page.keyboard.press("Enter")
    assert page.get_attribute("#viewer .row", "aria-pressed") == "true"
    page.focus("#viewer .modes input:checked")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#viewer .viewer", "data-mode") == "compare"
    page.focus("#viewer .split")
    before = int(page.input_value("#viewer .split"))
    page.keyboard.press("ArrowLeft")
    assert int(page.input_value("#viewer .split")) == before - 1


def test_words_are_merged_counted_and_taken_as_text(open_page):
    page = open_page()
    type_words(page, "red plain triangle, sofa | couch, Sofa, ,")
    assert chips(page) == ["red plain triangle", "sofa+1"]
    page.click("#words .as-text")
    assert page.input_value("#words textarea") == "red plain triangle\nsofa|couch"
    page.fill("#words textarea", "star\ncircle, <b>cross</b>")
    after(page, lambda: page.click("#words .as-text"))
    assert page.inner_text("#words .count") == "3"
    assert "<b>cross</b>" in page.inner_text("#words .chips")  # text, not markup
    page.click("#preset input")
    after(page, lambda: page.get_by_role("option", name="Colors of the drawn world (8)").click())
    # the segmentation that `after` saw can be that of the words before, on a busy machine
    page.wait_for_function("() => document.querySelector('#words .count').innerText === '8'")
    assert page.input_value("#preset input") == "Colors of the drawn world (8)"
    page.click("#words .undo")  # back to words that are no preset
    page.wait_for_function("() => document.querySelector('#preset input').value.startsWith('Choose')")
    assert chips(page) == ["star", "circle", "<b>cross</b>"]


def test_chip_that_is_emptied_is_gone_and_one_that_is_left_stays(open_page):
    page = open_page()
    before = chips(page)
    page.click("#words .chips .name >> nth=1")
    assert page.input_value("#words input") == before[1] and chips(page) == [before[0], *before[2:]]
    page.keyboard.press("Escape")
    assert chips(page) == before
    page.click("#words .chips .name >> nth=1")
    page.keyboard.press("Tab")  # left as it was: nothing happens
    assert chips(page) == before and page.is_hidden("#words .segment")

    page.click("#words .chips .name >> nth=1")
    page.fill("#words input", "")
    after(page, lambda: page.keyboard.press("Tab"))
    page.wait_for_function(
        "label => !document.querySelector('#viewer .legend').innerText.includes(label)", arg=before[1]
    )
    assert chips(page) == [before[0], *before[2:]]
    page.click("#words .chips .name >> nth=0")
    page.fill("#words input", "green background")
    after(page, lambda: page.keyboard.press("Enter"))
    assert chips(page) == ["green background", *before[2:]]  # in its place
    page.click("#words .undo")
    after(page, lambda: page.click("#words .undo"))
    assert chips(page) == before


def test_too_many_words_are_refused_aloud_and_stay_with_their_writer(open_page):
    page = open_page()
    before, many = chips(page), "\n".join(f"thing {i}" for i in range(3000))
    page.click("#words .as-text")
    page.locator("#words textarea").evaluate("(area, text) => { area.value = text; }", many)  # `fill` takes minutes
    page.click("#words .as-text")
    assert page.inner_text("#words .notice").startswith("3,000 labels are too many: at most 1,000 fit")
    assert page.input_value("#words textarea") == many
    page.fill("#words textarea", "\n".join(before))
    page.click("#words .as-text")
    assert chips(page) == before
    paste = """text => { const data = new DataTransfer(); data.setData("text", text);
      document.querySelector("#words input").dispatchEvent(new ClipboardEvent("paste", {clipboardData: data})); }"""
    page.evaluate(paste, many)
    assert "3,007 labels are too many" in page.inner_text("#words .notice") and chips(page) == before


def test_segment_button_is_there_only_while_something_waits(open_page):
    page = open_page()
    assert page.is_hidden("#words .segment")
    page.fill("#words input", "blue striped circle")
    assert page.is_visible("#words .segment")
    after(page, lambda: page.click("#words .segment"))
    assert "blue striped circle" in chips(page) and page.is_hidden("#words .segment")


def test_address_brings_words_and_options_back(open_page):
    page = open_page()
    assert "#" not in page.url
    page.click("#examples .topics button:has-text('Colors')")
    after(page, page.locator("#examples .scenes button").nth(1).click)
    type_words(page, "white, red|crimson")
    page.locator("#viewer .threshold input").fill("40")
    page.locator("#viewer .threshold input").dispatch_event("change")
    after(page, lambda: page.get_by_label("whole", exact=True).check())
    page.wait_for_function("() => location.hash.includes('whole') && location.hash.includes('0.40')")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    page.wait_for_selector("#copy-link:has-text('Copied')")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url

    again = open_page(fragment=link[link.index("#") :])
    assert chips(again) == ["white", "red+1"] and "whole" in facts(again)
    assert again.input_value("#viewer .threshold input") == "40" and legend(again) == legend(page)
    assert again.get_attribute("#examples .scenes button >> nth=1", "aria-pressed") == "true"


@pytest.mark.parametrize(
    "fragment",
    [
        "#words=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E&templates=%3Cb%3E%7B%7D%3C%2Fb%3E&example=-1&threshold=1e9&refine=x",
        "#inference=__proto__&head=%00&example=99999999999999999999&words=red&threshold=NaN&x=%FF%FE%",
        "#words=" + "a%2C" * 20_000,
    ],
    ids=["markup", "nonsense", "endless"],
)
def test_hostile_address_does_nothing(open_page, fragment):
    page = open_page(wait=False, fragment=fragment)
    if len(fragment) > MAX_ADDRESS:
        page.wait_for_selector("text=The address has more than")
    page.wait_for_selector("#viewer .viewer[data-state=result]")
    assert page.locator("img[src=x]").count() == 0 and "local-global" in facts(page)
    assert page.input_value("#viewer .threshold input") == "0"
    if "img" in fragment:
        assert chips(page) == ["<img src=x onerror=alert(1)>"]
    elif "red" in fragment:
        assert chips(page) == ["red"]
    else:
        assert len(chips(page)) == 7


def test_names_stand_on_their_regions_and_can_be_switched_off(open_page):
    page = open_page()
    tags = page.locator("#viewer .names span")
    named = tags.all_inner_texts()
    assert "red plain triangle" in named and set(named) <= set(legend(page)) and len(set(named)) == len(named)
    frame = page.locator("#viewer .frame").bounding_box()
    boxes = [tag.bounding_box() for tag in tags.all()]
    for i, box in enumerate(boxes):
        assert frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"]
        for other in boxes[:i]:
            beside = box["x"] + box["width"] <= other["x"] or other["x"] + other["width"] <= box["x"]
            assert beside or box["y"] + box["height"] <= other["y"] or other["y"] + other["height"] <= box["y"]
    for box, name in zip(boxes, named, strict=True):  # the pixel below a name has its label
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert name in page.inner_text("#viewer .tip")
    page.uncheck("#viewer .names-on")
    assert tags.count() == 0


def test_modes_explain_themselves_and_run(open_page):
    page = open_page()
    after(page, lambda: page.get_by_label("slide", exact=True).check())
    assert "sliding windows store no features" in facts(page) and "slowest" in page.inner_text("#mode")
    after(page, lambda: page.get_by_label("whole", exact=True).check())
    assert "image encoded" in facts(page) and "fastest" in page.inner_text("#mode")
    page.click("#advanced button")
    after(page, lambda: page.get_by_label("zero-shot (dino.txt)").check())
    assert "zero-shot head" in facts(page)


def test_bad_file_is_refused_in_words(open_page, tmp_path):
    page = open_page()
    path = tmp_path / "photo.png"
    path.write_bytes(b"this is no image")
    page.click("#photo button[aria-label='Remove Image']")
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector("#viewer .viewer[data-state=error]")
    message = page.inner_text("#viewer .message")
    assert "photo.png" in message and "Save the image as" in message
    assert str(tmp_path) not in page.inner_text("body") and "/tmp" not in page.inner_text("#viewer")
    screenshot(page, "error")


def test_phone_shows_everything_within_its_width(open_page):
    page = open_page(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#photo", "#words", "#viewer", "#preset", "#mode", "#downloads"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    tops = [page.locator(selector).bounding_box()["y"] for selector in ("#words", "#viewer", "#preset")]
    assert tops == sorted(tops)  # the result right after the words
    box, field = page.locator("#words .box").bounding_box(), page.locator("#words input").bounding_box()
    assert field["y"] + field["height"] <= box["y"] + box["height"]  # however many words are above it
    fields = page.locator("#words input, #words textarea, #preset input, #templates input").all()
    sizes = [float(field.evaluate("node => getComputedStyle(node).fontSize.slice(0, -2)")) for field in fields]
    assert len(sizes) >= 3 and min(sizes) >= 16  # iOS would enlarge the page at the focus
    buttons = [
        button for button in page.locator("#words .tools button, #viewer .absent button").all() if button.is_visible()
    ]
    assert buttons and min(button.bounding_box()["height"] for button in buttons) >= 24
    assert len(chips(page)) >= 7 and page.locator("#words .chips").bounding_box()["height"] < 250
    assert set(page.locator("#viewer .names span").all_inner_texts()) == set(legend(page))  # where there is little room
    page.locator("#viewer .row").first.tap()
    assert page.locator("#viewer .row").first.get_attribute("aria-pressed") == "true"
    page.locator("#viewer .row").first.tap()
    screenshot(page, "phone")
    page.evaluate("scrollTo(0, 0)")
    type_words(page, "star", clear=False)
    in_sight = """() => { const box = document.querySelector("#viewer .stage").getBoundingClientRect();
      return box.top >= 0 && box.bottom <= innerHeight + 1; }"""
    page.wait_for_function(in_sight)
    if folder := os.environ.get("DINOV3SEG_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "phone_after.png")


EVERY_RULE = {
    "resultTypes": ["violations"],
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice", "experimental"],
    },
}


def axe_findings(page):
    """What axe-core finds once no run is in progress, which dims the former result."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_function(
        """() => { let node = document.querySelector("#viewer .viewer");
        for (; node; node = node.parentElement) if (getComputedStyle(node).opacity !== "1") return false;
        return true; }"""
    )
    findings = Axe().run(page, options=EVERY_RULE).response["violations"]
    return [(finding["id"], [node["target"] for node in finding["nodes"]]) for finding in findings]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in(open_page, scheme, tmp_path):
    page = open_page(color_scheme=scheme)
    page.click("#advanced button")
    page.fill("#words input", "blue")  # a word that waits
    assert axe_findings(page) == []
    after(page, lambda: page.press("#words input", "Enter"))
    page.check("#viewer input[value=heat]", force=True)
    page.click("#words .as-text")
    assert axe_findings(page) == []
    page.click("#words .as-text")
    page.click("#photo button[aria-label='Remove Image']")
    page.wait_for_selector("#viewer .viewer[data-state=empty]")
    assert axe_findings(page) == []
    path = tmp_path / "photo.png"
    path.write_bytes(b"this is no image")
    page.set_input_files("#photo input[type=file]", path)
    page.wait_for_selector("#viewer .viewer[data-state=error]")
    page.click("#words .as-text")
    page.fill("#words textarea", "\n".join(f"{i}" for i in range(1001)))
    page.click("#words .as-text")
    assert "too many" in page.inner_text("#words .notice")
    assert axe_findings(page) == []
    screenshot(page, f"refused_{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_phone_in(open_page, scheme):
    page = open_page(color_scheme=scheme, **PHONE)
    assert axe_findings(page) == []
    page.click("#advanced button")
    page.locator("#viewer .row").first.tap()
    assert axe_findings(page) == []
    screenshot(page, f"phone_{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in(open_page, scheme):
    page = open_page(color_scheme=scheme)
    contrast = """selector => { const parse = c => c.match(/[\\d.]+/g).map(Number);
      const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; };
      const node = document.querySelector(selector); let ground = node;
      const clear = node => /, 0\\)|transparent/.test(getComputedStyle(node).backgroundColor);
      while (ground && clear(ground)) ground = ground.parentElement;
      const back = ground ? getComputedStyle(ground).backgroundColor : "rgb(255,255,255)";
      const [a, b] = [light(parse(getComputedStyle(node).color).slice(0, 3)), light(parse(back).slice(0, 3))];
      return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }"""
    for selector in (
        ".intro p",
        "#words .hint",
        "#viewer .facts",
        "#viewer .row .name",
        "#viewer .row .score",
        ".lead",
    ):
        assert page.evaluate(contrast, selector) >= 4.5, selector
    screenshot(page, scheme)


def test_two_people_see_their_own(open_page, scene):
    one, other = open_page(), open_page()
    type_words(one, "red plain triangle, black plain background")
    assert "red plain star" in other.inner_text("#words .chips")
    assert len(legend(other)) > 2
    type_words(other, "star")
    assert set(legend(one)) <= {"red plain triangle", "black plain background"}
