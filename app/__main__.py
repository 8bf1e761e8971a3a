"""python -m app: serve on PORT (8000)."""

import typer

from app.cli import serve

if __name__ == "__main__":
    typer.run(serve)
