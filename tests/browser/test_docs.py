"""The OpenAPI page, under a policy that allows no inline script and nothing from elsewhere."""

from playwright.sync_api import Page, expect

SLOW = 30_000  # ms; it is a large script


def test_a_call_is_tried_from_the_documentation(page: Page) -> None:
    page.get_by_role("link", name="API documentation").first.click()
    expect(page.get_by_role("heading", name="Glow Editor")).to_be_visible(timeout=SLOW)
    sample = page.locator(".opblock", has_text="/api/v1/sample")
    sample.get_by_role("button", name="POST").first.click()
    sample.get_by_role("button", name="Try it out").click()
    sample.get_by_role("button", name="Execute").click()
    answer = sample.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("200", timeout=SLOW)
    expect(answer).to_contain_text("latent_id")
