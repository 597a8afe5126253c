"""How far deployments of one model are from a reference on the shipped texts, token by token, all scored by trimtab's engines."""

from collections.abc import Mapping

from trimtab.core.deployment import Candidate
from trimtab.core.errors import TrimtabError
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.runner import prepare
from trimtab.evaluate.screen import ScreenResult, candidate_screen_requests, reference_screen_requests, screen
from trimtab.evaluate.suites.registry import load_suite


async def text_quality(made: Mapping[str, Candidate], reference: str, n_texts: int | None = None) -> dict[str, ScreenResult]:
    """Each of `made` against the one named `reference`, by token ids; who cannot score is left out, and said. n_texts: None = all"""
    items = [item for item in load_suite("core").items if item.suite == "text"][:n_texts]
    exact = made[reference]
    client = await WorkerClient.start(exact.engine, exact.snapshot, exact.settings, purpose="score")
    try:
        requests = reference_screen_requests(await prepare(client, items))
        expected = await client.score(requests)
    finally:
        await client.close()
    asked = candidate_screen_requests(requests, expected)
    found: dict[str, ScreenResult] = {}
    for name, candidate in made.items():
        if name == reference:
            continue
        try:
            client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="score")
            try:
                found[name] = screen(expected, await client.score(asked))
            finally:
                await client.close()
        except TrimtabError as error:
            print(f"{name} is not scored: {error}")
    return found
