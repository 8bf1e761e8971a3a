"""glow-editor: serve, and all that `python -m model` does."""

import gc
from importlib.metadata import version
from typing import Annotated

import typer
import uvicorn

import model.__main__
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logs
from model.runtime import keep_freed_memory

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(model.__main__.app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"glow-editor {version('glow-editor')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Edit photographs of faces in the latent space of a normalizing flow."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(envvar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", help="Port to listen on.")] = 8000,
) -> None:
    """Serve the page and the API. All else is set by variables named GLOW_…."""
    keep_freed_memory()
    configure_logs()
    application = create_app(Settings())
    gc.freeze()  # or its full collections, of torch and all that stays, stop everything for 0.2 s
    uvicorn.run(
        application,
        host=host,
        port=port,
        log_config=None,
        access_log=False,  # its lines hold latent ids, and an id opens a photograph
        timeout_graceful_shutdown=30,  # longer than any request waits for the model
        ws_max_size=2**16,
        ws_per_message_deflate=False,  # pictures are compressed already
    )
