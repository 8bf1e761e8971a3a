"""The picture follows the hand: over the live connection, and without one."""

import json
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, Route, WebSocketRoute

from tests.browser.hand import BEFORE, Hand, difference

LIVE = "**/live?*"


def test_the_hand_is_followed_over_the_live_connection(
    hand: Hand, page: Page, photograph: Path
) -> None:
    sent: list[dict[str, object]] = []
    answered: list[int] = []

    def listen(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def up(message: str | bytes) -> None:
            sent.append(json.loads(message))
            server.send(message)

        def down(message: str | bytes) -> None:
            assert isinstance(message, bytes), message
            answered.append(int.from_bytes(message[:4], "big"))
            route.send(message)

        route.on_message(up)
        server.on_message(down)

    photos: list[Route] = []
    page.route_web_socket(LIVE, listen)
    page.route("**/edit", lambda route: photos.append(route))
    hand.open(photograph)
    before = hand.pixels()
    hand.press_slider(0.9)
    hand.until(lambda: bool(sent and answered and answered[-1] == sent[-1]["seq"]))
    hand.until(lambda: difference(hand.pixels(), before) > 0.1)
    crop_first = hand.pixels()
    page.mouse.up()
    hand.until(lambda: bool(photos))
    assert photos[-1].request.post_data_json["output"] == "photo", "when the hand rests"
    assert {move["output"] for move in sent} == {"crop"}
    assert sent[-1]["attributes"] == {"smiling": float(hand.value())}
    assert answered == sorted(answered)
    for route in photos:
        route.continue_()
    hand.rest()
    resting = hand.pixels()
    assert difference(crop_first, resting) < 0.2 * difference(crop_first, before)


def test_without_it_edits_follow_one_request_at_a_time(
    hand: Hand, page: Page, photograph: Path
) -> None:
    page.route_web_socket(LIVE, lambda route: route.close())
    held: list[Route] = []
    asked: list[float] = []

    def hold_first(route: Route) -> None:
        asked.append(route.request.post_data_json["attributes"]["smiling"])
        if len(asked) == 1:
            held.append(route)
        else:
            route.continue_()

    page.route("**/edit", hold_first)
    hand.open(photograph)
    hand.press_slider(0.98)
    hand.until(lambda: bool(held))
    box = hand.slider().bounding_box()
    assert box
    for share in np.linspace(0.98, 0.85, 30):  # on one side of 0, which needs no request
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    page.mouse.up()
    assert len(asked) == 1, "the first is still under way"
    held[0].continue_()
    hand.rest()
    assert 2 <= len(asked) <= 3, "the newest crop, if the hand did not rest yet; the photograph"
    assert set(asked[1:]) == {float(hand.value())}


def test_a_connection_that_breaks_costs_no_move(hand: Hand, page: Page) -> None:
    broken: list[str | bytes] = []

    def break_at_a_move(route: WebSocketRoute) -> None:
        def up(message: str | bytes) -> None:
            broken.append(message)
            route.close()

        route.on_message(up)

    page.route_web_socket(LIVE, break_at_a_move)
    hand.generate()
    hand.editing()
    with page.expect_response("**/edit"):
        hand.press_slider(0.9)
    page.mouse.up()
    hand.rest()
    assert broken
    assert not np.array_equal(hand.pixels(), hand.pixels(BEFORE))
