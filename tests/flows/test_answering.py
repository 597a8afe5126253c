"""A file as a side that answers: many requests at once to one worker, which is a fake here."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

from trimtab.flows.parts.answering import LocalSide


class Client:
    """A worker's client that lets others run at every step, and refuses a request whose number is taken, as workers do."""

    def __init__(self):
        self.taken = set()

    async def render(self, messages):
        await asyncio.sleep(0)
        return messages[0]["content"]

    async def tokenize(self, texts, *, parse_special):
        await asyncio.sleep(0)
        return [[7] for _ in texts]

    async def info(self):
        await asyncio.sleep(0)
        return SimpleNamespace(bos_id=None)

    async def detokenize(self, ids):
        return f"{len(ids)} tokens"

    async def generate(self, request):
        number = request.request_id
        if number in self.taken:
            yield SimpleNamespace(token_id=None, done="error", error=f"Request {number} is running already.", time_ns=0)
            return
        self.taken.add(number)
        yield SimpleNamespace(token_id=1, done="", error="", time_ns=1)
        yield SimpleNamespace(token_id=None, done="stop", error="", time_ns=2)


def test_requests_that_are_asked_at_once_have_numbers_of_their_own():
    client = Client()

    class Workers:
        async def ready(self, candidate, purpose):
            return client

        @asynccontextmanager
        async def lent(self, candidate, purpose):
            yield client

    candidate = SimpleNamespace(id="m", deployment=SimpleNamespace(digest="d"), settings=SimpleNamespace(slots=4))

    async def ask():
        side = LocalSide(SimpleNamespace(workers=Workers()), candidate, "m.gguf")
        return await asyncio.gather(*(side.asked([{"role": "user", "content": str(n)}], 8) for n in range(20)))

    answers = asyncio.run(ask())
    assert [answer.error for answer in answers] == [""] * 20
    assert len(client.taken) == 20
