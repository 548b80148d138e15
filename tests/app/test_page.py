"""The page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import octvideo

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect  # noqa: E402

ASSETS = Path(octvideo.__file__).parent / "assets"
OpenPage = Callable[..., Page]
expect.set_options(timeout=120_000)


@pytest.fixture(scope="module")
def page(open_page: OpenPage, camera_file: Path) -> Page:
    return open_page(camera=camera_file)


@pytest.fixture(autouse=True)
def _no_traceback(app: Any) -> Any:
    """Nothing that a test does may print a traceback."""
    yield
    log = app.log.read_text(encoding="utf-8")
    assert "Traceback" not in log, log


def upload(page: Page, field: str, path: Path) -> None:
    page.locator(f"{field} input[type=file]").first.set_input_files(path)


def test_example_gets_an_answer(page: Page) -> None:
    page.reload()
    page.locator("button.gallery-item").first.click()
    page.locator("#clip video").wait_for()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer .headline")).to_have_text("jack")
    expect(page.locator("#answer .bar")).to_have_count(5)


def test_upload_gets_video_and_timeline(page: Page) -> None:
    page.reload()
    upload(page, "#clip", ASSETS / "example_bend_jack.mp4")
    page.locator("#clip video").wait_for()
    page.get_by_role("button", name="Predict").click()
    labels = page.locator("#timeline li .label")
    expect(labels.first).to_have_text("bend")
    expect(labels.last).to_have_text("jack")
    page.locator("#annotated video").wait_for()
    page.locator("#timeline li button").last.click()
    page.wait_for_function("document.querySelector('#annotated video').currentTime > 2")


def test_unknown_action_is_not_sure(page: Page) -> None:
    page.reload()
    upload(page, "#clip", ASSETS / "example_unknown.mp4")
    page.locator("#clip video").wait_for()
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#answer .headline")).to_have_text(re.compile("^Not sure closest: "))
    expect(page.locator("#timeline li .label").first).to_have_text("not sure")


def test_camera_answers_one_request_at_a_time(page: Page) -> None:
    page.reload()
    under_way, most = 0, 0

    def count(request: Any, change: int) -> None:
        nonlocal under_way, most
        if "component_server" in request.url:
            under_way += change
            most = max(most, under_way)

    page.on("request", lambda request: count(request, 1))
    page.on("requestfinished", lambda request: count(request, -1))
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#camera .answer .bar")).to_have_count(5)
    expect(page.locator("#camera .latency")).to_have_text(re.compile(r"^\d+ ms from the frame to the answer$"))
    for _ in range(3):
        page.wait_for_event("requestfinished", lambda request: "component_server" in request.url)
    page.get_by_role("button", name="Stop the camera").click()
    assert most == 1


def test_camera_uses_the_chosen_network(page: Page) -> None:
    page.reload()
    page.get_by_label("Network").first.click()
    page.get_by_role("option", name="i3d_small", exact=True).click()
    page.get_by_role("tab", name="Classes").click()
    expect(page.locator("#known")).to_contain_text("i3d_weizmann.pt (ships with octvideo)")
    page.get_by_role("tab", name="Camera").click()
    with page.expect_request("**/component_server/**") as asked:
        page.get_by_role("button", name="Start the camera").click()
    assert asked.value.post_data_json["data"]["model"] == "i3d_small"
    expect(page.locator("#camera .answer")).to_be_visible()
    page.get_by_role("tab", name="Clip").click()
    page.wait_for_function("document.querySelector('#camera video').srcObject === null")  # the camera is off


def test_missing_camera_is_named(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("tab", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#camera .problem")).to_have_text("No camera was found. Connect one, then start again.")


def test_compare_gives_two_answers(page: Page) -> None:
    page.reload()
    page.get_by_role("tab", name="Compare").click()
    upload(page, "#compare-clip", ASSETS / "example_jack.mp4")
    page.locator("#compare-clip video").wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#compare-summary")).to_contain_text(re.compile(r"\d+ % of the multiply-adds, \d+ % of"))
    expect(page.locator("#compared h3")).to_have_text(["oct_i3d_small, alpha 0.5", "i3d_small"])
    expect(page.locator("#compared .headline")).to_have_text(["jack", "jack"])
    costs = [float(re.findall(r"([\d.]+) billion", text)[0]) for text in page.locator("#compared dl").all_inner_texts()]
    assert costs[0] < costs[1]
    assert len(re.findall(r"\d+ ms", page.locator("#compared").inner_text())) == 2


def test_untrained_alpha_gets_no_answer(page: Page) -> None:
    page.reload()
    page.get_by_role("tab", name="Compare").click()
    upload(page, "#compare-clip", ASSETS / "example_jack.mp4")
    page.get_by_label("Alpha").click()
    page.get_by_role("option", name="0.25").click()
    page.locator("#compare-clip video").wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#compared .card").first).to_contain_text("not trained at this alpha")
    expect(page.locator("#compared .headline")).to_have_text(["jack"])


def test_bad_uploads_are_named(page: Page, tmp_path: Path, make_video: Callable[..., Path]) -> None:
    text, picture, huge = tmp_path / "text.mp4", tmp_path / "moving.mp4", tmp_path / "huge.mp4"
    text.write_text("no video", encoding="utf-8")
    frames = [Image.new("L", (64, 64), 80 * number) for number in range(3)]
    frames[0].save(picture, format="GIF", save_all=True, append_images=frames[1:])
    with huge.open("wb") as file:
        file.truncate((2 << 30) + 1)
    for tab, field, shown in (("Clip", "#clip", "#answer"), ("Compare", "#compare-clip", "#compare-summary")):
        for path, message in (
            (text, "text.mp4: cannot be decoded (Invalid data found when processing input); choose another video"),
            (picture, "moving.mp4: a picture, even if it moves; choose a video, such as .mp4"),
        ):
            page.reload()
            page.get_by_role("tab", name=tab).click()
            upload(page, field, path)
            expect(page.locator(f"{shown} .problem")).to_have_text(message)
            # The player fails too; that is no second message.
            page.wait_for_function(f"document.querySelector('{field} video')?.error")
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert page.locator(".toast-body").count() == 0
    page.reload()
    upload(page, "#clip", huge)
    expect(page.locator(".toast-body")).to_contain_text("maximum allowed size of 2.0 Gb")


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_and_needs_no_internet(open_page: OpenPage, width: int) -> None:
    page = open_page(width)
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url))
    page.reload()
    for tab in ("Clip", "Camera", "Compare", "Classes"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel").locator("visible=true").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    page.wait_for_load_state("networkidle")
    inside = ("http://127.0.0.1", "data:", "blob:")
    assert outside and not [url for url in outside if not url.startswith(inside)]
