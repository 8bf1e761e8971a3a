"""A client that goes away takes its work along."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelOnDisconnect:
    """Cancels the answer to a request when its client has gone: what waits in the engine's queue
    for it is dropped there, and an upload that breaks off is no error.

    Messages are read ahead by one, since a server tells of a client that has gone only to whoever
    asks for the next message.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue(1)
        answered = False

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        async def watch() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                await messages.put(message)
            if not answered:  # a server says so too when it has sent the whole answer
                answer.cancel()

        answer = asyncio.ensure_future(self.app(scope, messages.get, noted))
        watcher = asyncio.create_task(watch())
        try:
            await asyncio.wait([answer])
        finally:  # cancelled itself, when the server stops
            watcher.cancel()
            answer.cancel()
        if not answer.cancelled():
            answer.result()
