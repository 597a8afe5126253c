"""The text that a candidate is healed on: the user's, or what the reference itself is made to write. Never the text it is judged on."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, write_atomic
from trimtab.engines.base import GenerateRequest, with_first
from trimtab.evaluate.prompts import sentences
from trimtab.flows.parts.session import Session

TEXT_TOKENS = 480
OPENING_WORDS = (1, 4)
"""A text begins with so many words of a sentence of trimtab's own; the writer goes on at temperature 1 (as LLM-QAT does after a random
first token: Liu et al. 2023, arXiv:2305.17888)."""
AT_ONCE = 16
CONTEXT_TOKENS = 1024


async def written_text(session: Session, writer: Candidate, tokens: int, folder: Path) -> Path:
    """About `tokens` tokens written by a deployment, as a .jsonl file of texts; the same file for the same seed and deployment."""

    async def compute() -> list[str]:
        return await _write(session, writer, tokens)

    texts = await session.once("heal_text", [writer.deployment.digest, tokens, session.seed, TEXT_TOKENS], compute)
    path = folder / "text.jsonl"
    write_atomic(path, "".join(canonical_json({"text": text}) + "\n" for text in texts))
    return path


def user_files(patterns: Sequence[str]) -> tuple[str, ...]:
    """Paths of the user's own text, made absolute. Raises InputError for one that matches nothing."""
    found = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        matches = sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else [path]
        if not matches or not all(match.exists() for match in matches):
            raise InputError(f"--data {pattern} names no file; give .txt or .jsonl files.")
        found += [str(match.resolve()) for match in matches]
    return tuple(found)


async def _write(session: Session, writer: Candidate, tokens: int) -> list[str]:
    texts: list[str] = []
    written = 0
    number = 0
    bank = sentences()
    async with session.workers.lent(writer, "serve") as client:
        info = await client.info()

        async def one() -> None:
            nonlocal written, number
            while written < tokens:
                number += 1
                own = number  # others count on while this one waits
                rng = Random(session.seed * 1_000_003 + own)
                opening = " ".join(rng.choice(bank).split()[: rng.randint(*OPENING_WORDS)])
                ids = (await client.tokenize([opening], parse_special=False))[0]
                request = GenerateRequest(
                    request_id=own,
                    prompt_ids=with_first(ids, info.first_id(chat=False)),
                    max_tokens=min(TEXT_TOKENS, info.context_tokens - len(ids) - 2),
                    temperature=1.0,
                    seed=session.seed * 1_000_003 + own,
                    stop_ids=info.end_ids,
                )
                answer = [event.token_id async for event in client.generate(request) if event.token_id is not None]
                written += len(answer)
                texts.append(opening + await client.detokenize(answer))
                session.say("text", f"{writer.id} writes text to train on", min(written, tokens), tokens)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(one())
    return sorted(texts)
