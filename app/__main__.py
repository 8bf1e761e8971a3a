"""python -m app: serve on PORT (8000)."""

import os

import uvicorn

from app.engine import keep_freed_memory
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logs

if __name__ == "__main__":
    keep_freed_memory()
    configure_logs()
    uvicorn.run(
        create_app(Settings()),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(os.environ.get("PORT", "8000")),
        log_config=None,
        access_log=False,  # its lines hold latent ids, and an id opens a photograph
        timeout_graceful_shutdown=30,  # longer than any request waits for the model
        ws_max_size=2**16,
        ws_per_message_deflate=False,  # pictures are compressed already
    )
