"""Requests over kept connections, one after another on each: the leanest client there is, so that a server is what is measured."""

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Load:
    """seconds: of each request, in order of their ends; wall_s: from the first request to the last answer."""

    seconds: tuple[float, ...]
    wall_s: float


async def load(port: int, body: bytes, *, key: str, concurrency: int, n_requests: int) -> Load:
    """Send n_requests over `concurrency` connections. Raises RuntimeError for an answer that is not 200."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    left = iter(range(n_requests))
    seconds: list[float] = []

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for _ in left:
                began = time.perf_counter()
                writer.write(head + body)
                await _answer(reader)
                seconds.append(time.perf_counter() - began)
        finally:
            writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one_connection() for _ in range(concurrency)))
    return Load(seconds=tuple(seconds), wall_s=time.perf_counter() - began)


async def _answer(reader: asyncio.StreamReader) -> None:
    raw = await reader.readuntil(b"\r\n\r\n")
    lines = raw.split(b"\r\n")
    if b" 200 " not in lines[0]:
        raise RuntimeError(f"{lines[0].decode()}: {(await reader.read(2000)).decode(errors='replace')}")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if b"content-length" in fields:
        await reader.readexactly(int(fields[b"content-length"]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)
