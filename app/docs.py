"""/docs: the OpenAPI document to read and to try, of files that are all our own."""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

# addresses are relative, so that it also works behind a path prefix
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Glow Editor: the API</title>
<link rel="icon" href="favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs.js"></script>
</html>
"""


def install(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(PAGE)

    app.mount("/docs", StaticFiles(packages=[("fastapi_swagger", "resources")]))
