"""A workload's own requests, counted with the model's tokenizer and fitted to its context."""

from dataclasses import replace

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.workload import Workload
from trimtab.engines.client import WorkerClient
from trimtab.flows.parts.opening import Opened, default_engine
from trimtab.plan.requests import MARK_TOKENS, OverLong, fitted, sampled, with_lengths


async def counted(opened: Opened, workload: Workload, engine: str) -> Workload:
    """The workload with the true lengths of a user's own prompts in the model's template.

    Raises InputError for a prompt that the template does not take, InfeasibleError, MissingError.
    """
    if not any(request.messages for request in workload.requests):
        return workload
    client = await WorkerClient.start(engine, opened.snapshot, Settings())
    try:
        texts = []
        for number, request in enumerate(workload.requests, 1):
            try:
                texts.append(await client.render([{"role": role, "content": content} for role, content in request.messages]))
            except EngineRefused as error:
                raise InputError(
                    f"Prompt {number} of {workload.name} cannot be put to the model: {error} Change it, or give lengths instead, "
                    "such as --workload 512/128@1,4."
                ) from error
        lengths = [len(ids) + MARK_TOKENS for ids in await client.tokenize(texts, parse_special=True)]
    finally:
        await client.close()
    requests = tuple(replace(request, prompt_tokens=n) for request, n in zip(workload.requests, lengths, strict=True))
    return with_lengths(replace(workload, requests=requests), lengths)


async def ready_workload(opened: Opened, workload: Workload, context_tokens: int, over_long: OverLong) -> tuple[Workload, str]:
    """The workload that is timed, and what was done to requests that do not fit (empty = nothing).

    context_tokens: of the model. Raises InputError for requests that do not fit and may not be changed, InfeasibleError, MissingError.
    """
    fits, done = fitted(await counted(opened, workload, default_engine(opened)), context_tokens, over_long)
    return sampled(fits), done
