"""vLLM's engine, opened on one directory, in this process: what of its many arguments trimtab sets, and requests of token ids.

Nothing is sent anywhere, no hub is asked, no code of a repository runs, and generation_config.json gives no defaults: a request says all.
"""

import itertools
import os
from typing import Any

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, MissingError
from trimtab.engines.checkpoint import Checkpoint

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the scheduler runs where it is stepped
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the one whose hidden states vllm_rows.py looks at; the other needs Triton
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
BLOCK_TOKENS = 128
"""Of the cache on processors; a sequence holds whole blocks."""
STEP_TOKENS = 2048
"""Computed in one step on a processor, where nothing else is said."""
CACHE_SHARE = 0.5
"""Of the memory that is free, at most, for keys and values on processors: more requests than fit wait."""
EXTENSION = "trimtab.engines.vllm_rows.ScoringWorker"
PROCESSOR = "trimtab.engines.vllm_json:SchemaProcessor"


class Run:
    """An engine with its model. Raises EngineRefused for what vLLM cannot open, MissingError where vLLM itself does not load."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: str, kv_type: str, context_tokens: int, slots: int, settings: Settings) -> None:
        os.environ.update(ENVIRONMENT)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if settings.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        try:
            import torch
            from vllm.engine.arg_utils import EngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.llm_engine import LLMEngine
        except ImportError as error:
            raise MissingError(f"The vLLM engine does not load ({error}).", "see docs/vllm.md for packages that must go") from error
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        told: dict[str, Any] = {} if settings.batch_tokens is None else {"max_num_batched_tokens": settings.batch_tokens}
        compiles = settings.compile_cache
        if current_platform.is_cpu():
            compiles = bool(compiles)  # minutes of work for a small model already, at the first start
            told = on_processor(settings.batch_tokens, context_tokens, slots)
            told["kv_cache_memory_bytes"] = cache_bytes(checkpoint, dtype, kv_type, slots, context_tokens)
        try:
            self.engine = LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(checkpoint.folder),
                    skip_tokenizer_init=True,
                    load_format="safetensors",
                    dtype=dtype,
                    kv_cache_dtype=kv_type,
                    max_model_len=context_tokens,
                    max_num_seqs=slots,
                    enable_prefix_caching=bool(settings.prefix_cache),
                    tensor_parallel_size=len(settings.tensor_split or (1,)),
                    max_logprobs=-1,
                    logprobs_mode="raw_logprobs",
                    generation_config="vllm",
                    async_scheduling=False,
                    disable_log_stats=True,
                    trust_remote_code=False,
                    enforce_eager=compiles is False,
                    logits_processors=[PROCESSOR],
                    worker_extension_cls=EXTENSION,
                    **told,
                )
            )
        except Exception as error:  # of many kinds, of pydantic and torch among them
            raise EngineRefused(f"vLLM cannot open {checkpoint.source}: {sentence_of(error)}.") from error
        if not all(self.engine.collective_rpc("trimtab_attach")):
            raise EngineRefused("This version of vLLM computes log-probabilities in another place than trimtab looks; install vllm 0.32.")
        self.folder = str(checkpoint.folder)
        self._marks = itertools.count()

    def add(self, ids: list[int], params: Any) -> str:
        """Queue a request. Returns vLLM's name for it. Raises EngineRefused for parameters that it does not take."""
        from vllm.exceptions import VLLMClientError

        try:
            return str(self.engine.add_request(str(next(self._marks)), {"prompt_token_ids": ids}, params))
        except (VLLMClientError, ValueError, TypeError) as error:
            raise EngineRefused(f"vLLM does not take this request: {sentence_of(error)}.") from error

    def in_force(self) -> dict[str, Any]:
        """What vLLM filled in itself."""
        import torch

        config = self.engine.vllm_config
        return {
            "batch_tokens": config.scheduler_config.max_num_batched_tokens,
            "threads": torch.get_num_threads(),
            "compile_cache": not config.model_config.enforce_eager,
            "compute_type": str(config.model_config.dtype).removeprefix("torch."),
        }

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        self.engine.engine_core.shutdown()


def on_processor(batch_tokens: int | None, context_tokens: int, slots: int) -> dict[str, Any]:
    """Prompts are computed whole: of one that it computes in parts, vLLM 0.32 cannot set back the random numbers on a processor, and fails.

    Raises EngineRefused for fewer tokens in a step than a prompt may have.
    """
    least = max(context_tokens, slots)
    if batch_tokens is not None and batch_tokens < least:
        raise EngineRefused(
            f"vLLM computes prompts whole on processors: batch_tokens must be at least {least}, as the context is that long."
        )
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": batch_tokens or max(STEP_TOKENS, least)}


def cache_bytes(checkpoint: Checkpoint, dtype: str, kv_type: str, slots: int, context_tokens: int) -> int:
    """Memory for keys and values on a processor: of all slots with a whole context, as far as half of the free memory goes."""
    import psutil

    item_bytes = 1 if kv_type.startswith("fp8") else 4 if dtype == "float32" else 2
    blocks = -(-context_tokens // BLOCK_TOKENS) + 1
    one = blocks * BLOCK_TOKENS * checkpoint.cache_bytes(item_bytes)
    return max(one, min(slots * one, int(CACHE_SHARE * psutil.virtual_memory().available)))


def sentence_of(error: BaseException) -> str:
    """What an error of several lines says, without the heading and the end of pydantic's."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = " ".join(line for line in lines if line and "validation error" not in line and "further information" not in line)
    return told.partition(" [type=")[0].rstrip(".")[:400] or type(error).__name__
