"""Bounds on what a client may send, enforced while it is read."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Problem, problem_response


class BodyLimit:
    """Refuses a request body past `max_bytes`: at once if it states its length, else as it grows.

    Starlette's own limit answers in plain text; every failure of ours is a problem document.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = Problem(
            413,
            "body-too-large",
            f"The request is too large; up to {self.max_bytes} bytes are accepted.",
        )
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self.max_bytes:
            response = problem_response(413, problem.kind, problem.detail)
            await response(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise problem
            return message

        await self.app(scope, limited, send)
