"""What a user typed as a side that is asked by text: a server, or a file in a worker here."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from trimtab.core.deployment import CandidateSpec, Settings, parse_spec
from trimtab.core.errors import InputError
from trimtab.describe.card import model_card
from trimtab.engines.registry import engine_names
from trimtab.flows.parts.answering import LocalSide, Side, endpoint_side
from trimtab.flows.parts.opening import build_typed, default_engine, open_typed
from trimtab.flows.parts.session import Session
from trimtab.sources.endpoint import is_endpoint

CONTEXT_TOKENS = 2048


@asynccontextmanager
async def open_sides(session: Session, specs: Mapping[str, str], *, slots: int, context_tokens: int = 0) -> AsyncIterator[list[Side]]:
    """The sides in order, each called by its key (empty = by the model alone); servers are let go at the end.

    slots, context_tokens: of files, at least CONTEXT_TOKENS where the model has them. Raises InputError, MissingError, InfeasibleError;
    ExchangeFailed for a server that answers no chat request.
    """
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for name, spec in specs.items():
            if not is_endpoint(spec):
                sides.append(await _local(session, name, parse_spec(spec, engine_names()), slots, max(CONTEXT_TOKENS, context_tokens)))
                continue
            if session.offline:
                raise InputError(f"{name or 'The model'} is a server; --offline and a server do not go together.")
            sides.append(await stack.enter_async_context(endpoint_side(session, name, spec)))
        yield sides


async def _local(session: Session, name: str, spec: CandidateSpec, slots: int, wanted_tokens: int) -> LocalSide:
    """A file as a side: built as its recipe says."""
    opened = open_typed(spec, cache_dir=session.caches, offline=session.offline)
    limit = model_card(opened.header, opened.snapshot).context_tokens or CONTEXT_TOKENS
    common = Settings(slots=slots, context_tokens=min(wanted_tokens, limit))
    session.say("build", f"{name}{': ' if name else ''}{opened.snapshot.source} in {spec.engine or default_engine(opened)}")
    candidate = await build_typed(opened, spec, common, products_dir=session.products_dir, side=name)
    return LocalSide(session, candidate, spec.source)
