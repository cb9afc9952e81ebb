"""The page in a real browser: run where Gradio, Playwright and Chromium are, by `make serving`."""

import base64
import shutil

import pytest

from .conftest import data_url, noise, save_checkpoint
from .http_server import serving

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.filterwarnings("ignore"),  # Gradio's own
]

DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const moved = new DataTransfer();
  moved.items.add(new File([bytes], name, {type: 'image/png'}));
  const prompt = document.querySelector('#prompt .prompt');
  const box = prompt.getBoundingClientRect();
  prompt.dispatchEvent(new DragEvent('drop', {dataTransfer: moved, bubbles: true,
    cancelable: true, clientX: box.right - 5, clientY: box.bottom - 5}));
}"""


ORDER = """[...document.querySelector('#prompt .prompt').childNodes]
  .map((node) => (node.alt || node.data || '').replaceAll('\\u00a0', ' '))
  .filter((text) => text)"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("page") / "model")
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(["demo", "--web", "--model", str(folder)], health="/", log=log) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["wide", "phone"])
def page(address, browser, request):
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    page.goto(address)
    page.wait_for_selector("#prompt .prompt")
    yield page
    # Nothing sticks out of a narrow screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def drop(page, data: str, name: str) -> None:
    page.evaluate(DROP, [data, name])
    page.wait_for_selector(f'#prompt img[alt="{name}"]')


def test_pictures_anywhere_in_the_text_are_shown_counted_and_answered(page):
    page.click("#prompt .prompt")
    page.keyboard.type("Compare ")
    drop(page, data_url(noise(60, 40)).partition(",")[2], "first.png")
    page.keyboard.type(" with <image> and ")
    drop(page, data_url(noise(30, 30, seed=1)).partition(",")[2], "second.png")
    page.wait_for_selector("#tiles figure >> nth=1")
    assert page.locator("#tiles figure").count() == 2, "typed text is no picture"
    assert "40 × 60" in page.inner_text("#tiles")
    order = page.evaluate(ORDER)
    assert order == ["Compare ", "first.png", " with <image> and ", "second.png"]
    page.click("#prompt .ask")
    page.wait_for_function("document.querySelector('#answer textarea').value.length > 0")
    page.click("#prompt .clear")
    page.wait_for_function("document.querySelector('#answer textarea').value === ''")
    assert page.locator("#tiles figure").count() == 0


def test_a_bad_picture_and_an_empty_prompt_say_what_is_wrong(page):
    page.click("#prompt .ask")
    page.wait_for_selector("#problem [role=alert]")
    assert "nothing to answer" in page.inner_text("#problem")
    drop(page, base64.b64encode(b"nonsense").decode(), "bad.png")
    page.wait_for_function("document.querySelector('#problem').innerText.includes('bad.png')")


def test_a_stopped_answer_leaves_the_next_one_its_turn(page):
    page.click("#prompt .prompt")
    page.keyboard.type("hello")
    page.fill("input[type=number]", "1024")
    page.keyboard.press("Tab")
    answer = "document.querySelector('#answer textarea').value"
    page.click("#prompt .ask")
    page.wait_for_function(f"{answer}.length > 0")
    page.click("#prompt .stop")
    page.wait_for_timeout(500)
    length = page.evaluate(f"{answer}.length")
    page.wait_for_timeout(500)
    assert page.evaluate(f"{answer}.length") == length
    page.fill("input[type=number]", "8")
    page.keyboard.press("Tab")
    page.click("#prompt .ask")
    page.wait_for_function(f"{answer}.length > 0 && {answer}.length < {length}")
