"""A small server that speaks vLLM's completions API, for tests of the client alone.

It writes token ids at a fixed pace and notices when a stream is closed. What it cannot show, how a
real engine behaves, `make test-vllm` does.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class Server:
    """What it was asked, and how it misbehaves.

    Attributes:
        asked: Bodies of all completion requests.
        closed: Number of streams that the client closed early.
        token_ids: Whether it answers with token ids.
        refuses: Prompts of this length are refused.
        stops_after: Streams end after so many tokens.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.closed = 0
        self.token_ids = True
        self.refuses: int | None = None
        self.stops_after: int | None = None
        self.pace_s = 0.002

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "ttcsim/tiny-10m"}]})

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.0.test"})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if len(body["prompt"]) == self.refuses:
            return web.json_response({"error": {"message": "no"}}, status=400)
        response = web.StreamResponse()
        await response.prepare(request)
        count = body["max_tokens"]
        try:
            for number in range(min(count, self.stops_after or count)):
                await asyncio.sleep(self.pace_s)
                choice: dict[str, Any] = {"text": ""}
                if self.token_ids:
                    choice["token_ids"] = [1000 + number]
                choice["finish_reason"] = "length" if number == count - 1 else None
                line = f"data: {json.dumps({'choices': [choice]})}\n\n"
                await response.write(line.encode())
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            self.closed += 1
            raise
        return response


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    """Serve on a free port of this machine."""
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/version", server.version)
    app.router.add_post("/v1/completions", server.complete)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = site.name
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()
