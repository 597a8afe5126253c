"""Embeddings by transformers: the encoder of a sentence-transformers directory, in the number format that a recipe names.

No code of a repository runs, weights come from safetensors alone, and a tensor that is missing is a refusal (the pooler, which is not used,
may be).
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from transformers.utils import logging as transformers_log

from trimtab.core.deployment import EngineBuild
from trimtab.core.embedding import EmbeddingForm
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.model import Snapshot
from trimtab.core.number_format import read_format
from trimtab.engines.embedding import Embedder, Vectors, by_length, unit
from trimtab.engines.transformers import TransformersEngine
from trimtab.engines.transformers_model import quantize_net, sentence_of


class TransformersEmbedder(Embedder):
    """See Embedder. On the processor."""

    name: ClassVar[str] = "transformers"
    format: ClassVar[str] = "safetensors"

    @classmethod
    def build(cls) -> EngineBuild:
        return TransformersEngine.build()

    def __init__(self, snapshot: Snapshot, form: EmbeddingForm, *, threads: int | None = None) -> None:
        self.source = snapshot.source
        self.form = form
        for name in ("torchao", "torch.utils._pytree"):  # they log of parts that this machine cannot use
            logging.getLogger(name).setLevel(logging.ERROR)
        if threads is not None:
            torch.set_num_threads(threads)
        transformers_log.set_verbosity_error()
        transformers_log.disable_progress_bar()
        try:
            number_format = read_format(snapshot.root)
            net, told = transformers.AutoModel.from_pretrained(
                str(snapshot.root),
                dtype=getattr(torch, number_format.dtype) if number_format.dtype else "auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, InputError) as error:
            raise EngineRefused(f"transformers cannot open {snapshot.source}: {sentence_of(error)}.") from error
        missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise EngineRefused(
                f"transformers cannot open {snapshot.source}: {len(missing)} tensors are missing, the first is {missing[0]}."
            )
        self._net: Any = net.eval()
        quantize_net(self._net, number_format, torch.device("cpu"), snapshot.source)

    def embed(self, sequences: Sequence[Sequence[int]], *, batch: int = 32) -> Vectors:
        if self._net is None:
            raise EngineRefused(f"{self.source} is closed.")
        found = np.zeros((len(sequences), int(self._net.config.hidden_size)), np.float32)
        for places in by_length(sequences, batch):
            rows = [sequences[place] for place in places]
            width = max(map(len, rows))
            ids, mask = torch.zeros((len(rows), width), dtype=torch.int64), torch.zeros((len(rows), width), dtype=torch.int64)
            for row, held in enumerate(rows):
                ids[row, : len(held)] = torch.tensor(held, dtype=torch.int64)
                mask[row, : len(held)] = 1
            try:
                with torch.inference_mode():
                    states = self._net(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            except (RuntimeError, ValueError, NotImplementedError) as error:
                raise EngineRefused(f"transformers cannot compute with {self.source}: {sentence_of(error)}.") from error
            weights = mask.float().unsqueeze(-1)
            pooled = states[:, 0] if self.form.pooling == "first" else (states * weights).sum(1) / weights.sum(1)
            found[places] = pooled.numpy()
        return unit(found)

    def close(self) -> None:
        self._net = None
