"""A chat server that answers at once, and a pass-through before it that does nothing else: raw ASGI applications under uvicorn.

usage: python mock_upstream.py PORT            the answer
       python mock_upstream.py PORT UPSTREAM   the pass-through to http://127.0.0.1:UPSTREAM
"""

import sys
from typing import Any

import aiohttp
import uvicorn

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"mock","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"The answer is forty-two."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15}}'
)


async def read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def reply(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await read(receive)
    await reply(send, 200, ANSWER)


class PassThrough:
    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        body = await read(receive)
        async with self.session.post(self.upstream + scope["path"], data=body, headers={"content-type": "application/json"}) as response:
            await reply(send, response.status, await response.read())


if __name__ == "__main__":
    app = answer if len(sys.argv) == 2 else PassThrough(f"http://127.0.0.1:{sys.argv[2]}")
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off")
