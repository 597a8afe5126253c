"""Ray Serve's application of a release, as an exported RayService names it: `import_path: trimtab.bridges.ray_app:build`.

A replica is one `trimtab serve` of one lock, on loopback, in a process that ends with the replica; requests are passed through as they
come. Keys, guards and the audit log are those of the gateway in front. Ray loads inside `build`.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.toml import to_toml
from trimtab.serve.server_process import ServerProcess, free_port
from trimtab.serve.site import read_site

BUSY = 0.7
"""Share of a replica's slots in use above which Serve starts another."""
LOAD_LIMIT_S = 900.0
LOOK_S = 0.1
ENDS_S = 30.0
HOP = frozenset({b"connection", b"content-length", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
"""Headers of one connection, not of the request (RFC 9110, 7.6.1)."""

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """`args` of the application.

    site: file with the model's lock, as the gateway of a container reads it; model: its name there
    slots: requests at once; cpus, accelerators: of one replica; idle_s: without requests, until one is given back
    """

    site: str
    model: str
    slots: int
    cpus: float = 1.0
    accelerators: float = 0.0
    min_replicas: int = 0
    max_replicas: int = 1
    idle_s: float = 600.0

    @classmethod
    def parse(cls, args: Mapping[str, Any]) -> Self:
        """Raises InputError for a word that is not known, or one that lacks."""
        known = {item.name for item in fields(cls)}
        for key in args:
            if key not in known:
                raise InputError(f"args: {key!r} is not known; there are {', '.join(sorted(known))}.")
        lacks = [name for name in ("site", "model", "slots") if name not in args]
        if lacks:
            raise InputError(f"args lack {', '.join(lacks)}; `trimtab export --format rayservice` writes them.")
        wanted = cls(**args)
        if not 0 <= wanted.min_replicas <= wanted.max_replicas or wanted.max_replicas < 1 or wanted.slots < 1:
            raise InputError(f"args: {wanted.min_replicas} to {wanted.max_replicas} replicas of {wanted.slots} slots make no service.")
        return wanted


def build(args: Mapping[str, Any]) -> Any:
    """The application for Serve. Raises InputError (args), ImportError without `trimtab[ray]`."""
    from ray import serve

    wanted = Wanted.parse(args)
    scaling = {
        "min_replicas": wanted.min_replicas,
        "initial_replicas": wanted.min_replicas,
        "max_replicas": wanted.max_replicas,
        "target_ongoing_requests": max(1.0, BUSY * wanted.slots),
        "downscale_delay_s": wanted.idle_s,
        "downscale_to_zero_delay_s": wanted.idle_s,
    }
    deployment = serve.deployment(
        serve.ingress()(Behind),
        name="replica",
        autoscaling_config=scaling,
        max_ongoing_requests=wanted.slots,
        ray_actor_options={"num_cpus": wanted.cpus, "num_gpus": wanted.accelerators},
        graceful_shutdown_timeout_s=ENDS_S,
    )
    return deployment.bind(site=wanted.site, model=wanted.model)


class Behind:
    """The class of the deployment: a server of one model, and the way to it."""

    async def __init__(self, *, site: str, model: str) -> None:  # type: ignore[misc]
        self._folder = Path(tempfile.mkdtemp(prefix="trimtab-ray-"))
        self._port = free_port()
        path = self._folder / "site.toml"
        path.write_text(inner_site(Path(site), model, self._port), encoding="utf-8")
        self._process = await ServerProcess.start([sys.executable, "-m", "trimtab", "serve", str(path)])
        try:
            await self._loaded(model)
        except BaseException:
            await self._end()
            raise

    def __serve_build_asgi_app__(self) -> Callable[[Message, Receive, Send], Awaitable[None]]:
        """What Serve hands requests to. A function, because uvicorn takes a bound method for the older form of ASGI."""

        async def passed_on(scope: Message, receive: Receive, send: Send) -> None:
            await self._passed_on(scope, receive, send)

        return passed_on

    async def check_health(self) -> None:
        """Serve asks every few seconds. Raises InfeasibleError for a server that has ended."""
        if not self._process.is_running:
            raise InfeasibleError(self._process.said() or "The server's process has ended.")

    async def _passed_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI request to the server, its answer in the pieces in which it comes."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        session = self._session()
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"] if name.lower() not in HOP]
        url = f"http://127.0.0.1:{self._port}{scope['path']}{query}"
        async with session.request(scope["method"], url, data=body, headers=headers, allow_redirects=False) as answer:
            sent = [(name, value) for name, value in answer.raw_headers if name.lower() not in HOP]
            await send({"type": "http.response.start", "status": answer.status, "headers": sent})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _session(self) -> Any:
        """One pool of connections for all requests, made in the loop that uses it."""
        import aiohttp

        if not hasattr(self, "_client"):
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
            self._client = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))
        return self._client

    async def _loaded(self, model: str) -> None:
        """Until the model answers. Raises InfeasibleError: it ended, or it takes too long."""
        for _ in range(int(LOAD_LIMIT_S / LOOK_S)):
            await self.check_health()
            if await self._state(model) == "ready":
                return
            await asyncio.sleep(LOOK_S)
        raise InfeasibleError(f"{model} was not ready within {LOAD_LIMIT_S:g} s. {self._process.said()}")

    async def _state(self, model: str) -> str:
        import aiohttp

        try:
            async with self._session().get(f"http://127.0.0.1:{self._port}/v1/models") as answer:
                rows = json.loads(await answer.read())["data"]
        except (aiohttp.ClientError, OSError, ValueError, KeyError):
            return ""
        return next((str(row.get("state", "")) for row in rows if row["id"] == model), "")

    async def _end(self) -> None:
        await self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def __del__(self) -> None:
        """Serve awaits it before a replica goes."""
        if hasattr(self, "_client"):
            await self._client.close()
        await self._end()


def inner_site(site: Path, model: str, port: int) -> str:
    """The site of a server on loopback for one model of a site, without what the gateway in front does. Raises InputError."""
    served = read_site(site).model_called(model)
    lock = next((version.lock for version in served.versions if version.lock), "") if served is not None else ""
    if served is None or not lock:
        raise InputError(f"{site} names no lock for {model!r}.")
    row = {
        "name": served.name,
        "lock": str((site.absolute().parent / lock).resolve()),
        "allow_uncertified": True,  # the site that was read says whether that is meant, and was refused if not
        "min_replicas": 1,
        "queue_wait_s": served.queue_wait_s,
    }
    listen = {"host": "127.0.0.1", "port": port}
    return to_toml({"need_keys": False, "audit": "off", "abuse": "off", "listen": listen, "models": [row]})
