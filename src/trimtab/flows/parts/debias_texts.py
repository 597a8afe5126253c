"""The texts that a bias is trained away on: the model's own, or the user's. None that shares words with what is asked later."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.core.files import canonical_json, digest_of, parsed_json, write_atomic
from trimtab.engines.base import GenerateRequest, with_first
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.prompts import sentences
from trimtab.flows.parts.session import Session
from trimtab.record.disk import sentences as said_of_the_disk
from trimtab.train.debias.cases import ENDING_TOKENS, Case, attribute_of, clean_ending, draw_cases, overlapping
from trimtab.train.debias.methods import Method, PersonText, own_texts, rows_of, without

CASE_TOKENS = 30
"""Of a beginning with its ending, about."""
NEUTRAL_SHARE = 0.2
"""Of the texts of `balanced`, sentences about nobody: they hold the model where it was."""
MOST_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is trained on: a file of rows, and what it is. longest_tokens: of a row; told: for the document, JSON types."""

    path: Path
    longest_tokens: int
    told: Mapping[str, Any]


async def texts_for(
    session: Session, model: Candidate, method: Method, *, files: Sequence[str], tokens: int, items: Mapping[str, Item], folder: Path
) -> Texts:
    """Write the rows of a method. files: the user's, () = texts that the model ends itself. Raises InputError, InfeasibleError."""
    if files:
        texts = own_texts(_rows(files), session.seed)
        source = f"{len(files)} file(s) of the user's"
    else:
        versions = 1 if method == "reweigh" else 2
        texts = await _ended(session, model, draw_cases(max(8, tokens // (versions * CASE_TOKENS)), session.seed))
        source = "beginnings of trimtab's own, ended by the model before training"
    asked = {item.prompt + option for item in items.values() for option in item.options}
    dropped = overlapping([one for text in texts for one in (text.text, *text.twins)], asked)
    kept = without(texts, dropped)
    n_people = len(kept)
    if method == "balanced":
        bank = Random(session.seed).sample(list(sentences()), min(len(sentences()), round(NEUTRAL_SHARE * n_people)))
        kept += [PersonText(text=text) for text in bank]
    rows = rows_of(method, kept, session.seed)
    lines = "".join(canonical_json(row) + "\n" for row in rows)
    path = folder / "train.jsonl"
    with said_of_the_disk(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lines)
    async with session.workers.lent(model, None) as client:
        ids = await client.tokenize([row["text"] for row in rows], parse_special=True)
    told = {
        "source": source,
        "n_texts": n_people,
        "n_neutral": len(kept) - n_people,
        "n_left_out": len(texts) - n_people,
        "n_rows": len(rows),
        "n_tokens": sum(map(len, ids)),
        "axes": dict(sorted(Counter(text.axis for text in kept if text.axis).items())),
        "attributes": _cells(kept) if method == "reweigh" else {},
        "digest": digest_of(rows),
    }
    session.say("texts", f"{told['n_rows']} rows, {told['n_tokens']:,} tokens: {source}; {told['n_left_out']} left out", 1, 1)
    return Texts(path=path, longest_tokens=max(map(len, ids)) + 1, told=told)


async def _ended(session: Session, model: Candidate, cases: Sequence[Case]) -> list[PersonText]:
    """Each case with the ending that the model gives it at temperature 1; one that it does not end is left out."""

    async def compute() -> list[list[str]]:
        async with session.workers.lent(model, "serve") as client:
            return await _sampled(session, client, cases)

    key = [model.deployment.digest, [[case.begin, case.twin, ENDING_TOKENS[case.kind]] for case in cases], session.seed]
    found = []
    for case, (begin, twin, written) in zip(cases, await session.once("endings", key, compute), strict=True):
        ending = clean_ending(written)
        if not ending:
            continue
        found.append(
            PersonText(
                text=begin + ending,
                twins=(twin + case.twin_ending(ending),),
                alone=case.chat,
                axis=case.axis,
                group=case.group,
                attribute=attribute_of(ending),
            )
        )
    return found


async def _sampled(session: Session, client: WorkerClient, cases: Sequence[Case]) -> list[list[str]]:
    """[beginning as the model reads it, its twin, what it wrote] of each case."""
    begins = []
    for case in cases:
        both = (case.begin, case.twin)
        begins.append([await client.render([{"role": "user", "content": text}]) for text in both] if case.chat else list(both))
    info = await client.info()
    ids = await client.tokenize([begin for begin, _ in begins], parse_special=True)
    room, done = asyncio.Semaphore(MOST_AT_ONCE), 0

    async def one(number: int) -> str:
        nonlocal done
        case = cases[number]
        prompt = with_first(ids[number], info.first_id(chat=case.chat))
        request = GenerateRequest(
            request_id=number,
            prompt_ids=prompt,
            max_tokens=ENDING_TOKENS[case.kind],
            temperature=1.0,
            seed=session.seed * 1_000_003 + number,
            stop_ids=info.end_ids,
        )
        async with room:
            written = [event.token_id async for event in client.generate(request) if event.token_id is not None]
        done += 1
        if done % 20 == 0:
            session.say("texts", "the model ends texts about people", done, len(cases))
        return await client.detokenize(written)

    endings = await asyncio.gather(*(one(number) for number in range(len(cases))))
    return [[*begin, ending] for begin, ending in zip(begins, endings, strict=True)]


def _rows(files: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Rows of the user's .jsonl files with their places. Raises InputError."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name in files:
        path = Path(name).expanduser()
        if path.suffix != ".jsonl":
            raise InputError(f'{path}: --data takes .jsonl files here, one object a line, such as {{"text": ...}}.')
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = parsed_json(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number} is no JSON ({error}); mend the line or take it out.") from error
            if not isinstance(row, dict):
                raise InputError(f'{path}, line {number} is no JSON object; write one a line, such as {{"text": ...}}.')
            found.append((f"{path}, line {number}", row))
    if not found:
        raise InputError(f"{', '.join(files)}: there is no text in it; give at least one.")
    return found


def _cells(texts: Sequence[PersonText]) -> dict[str, int]:
    return dict(sorted(Counter(text.attribute for text in texts).items()))
