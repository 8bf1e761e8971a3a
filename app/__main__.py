"""python -m app: serve on PORT (8000)."""

import logging
import os

import uvicorn

from app.main import create_app
from app.settings import Settings

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    uvicorn.run(
        create_app(Settings()),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(os.environ.get("PORT", "8000")),
        access_log=False,  # its lines hold latent ids, and an id opens a photograph
    )
