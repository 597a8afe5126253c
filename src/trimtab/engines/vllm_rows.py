"""What a scored request reads off vLLM's logits, inside vLLM's worker: log-probabilities at the rows that are wanted, and at no others.

vLLM reports prompt log-probabilities of the most likely tokens and the prompt's own. Scoring wants those of named tokens too, and under a
bias, so an extension of its worker (`worker_extension_cls`) looks at the hidden states where vLLM itself would.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

ROWS_AT_ONCE = 256
"""Rows of logits in memory."""
MARK = "trimtab"
"""Key in a request's extra arguments; its value is the key of its Rows."""


@dataclass(kw_only=True, eq=False)
class Rows:
    """What is wanted of one sequence, and what was found. Row `i` is predicted by token `first + i` of the prompt.

    targets: [rows] ids; watch: [rows, ids], -1 = none; bias_ids, bias: added to the logits of every row
    logprobs, watched, top: natural logarithms, NaN = not computed
    """

    first: int
    targets: npt.NDArray[np.int64]
    watch: npt.NDArray[np.int64]
    top_k: int
    bias_ids: npt.NDArray[np.int64]
    bias: npt.NDArray[np.float32]
    logprobs: npt.NDArray[np.float32] = field(init=False)
    greedy: npt.NDArray[np.bool_] = field(init=False)
    watched: npt.NDArray[np.float32] = field(init=False)
    top_ids: npt.NDArray[np.int64] = field(init=False)
    top: npt.NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.targets)
        self.logprobs = np.full(count, np.nan, np.float32)
        self.greedy = np.zeros(count, np.bool_)
        self.watched = np.full(self.watch.shape, np.nan, np.float32)
        self.top_ids = np.zeros((count, self.top_k), np.int64)
        self.top = np.full((count, self.top_k), np.nan, np.float32)

    def read(self, row: int, logits: torch.Tensor) -> None:
        """Fill in from `row` on. logits: [some rows, vocabulary], any float type; log-softmax in float32."""
        logits = logits.float()
        part = slice(row, row + len(logits))
        if len(self.bias):
            bias = torch.from_numpy(self.bias).to(logits.device)
            logits = logits.index_add(1, torch.from_numpy(self.bias_ids).to(logits.device), bias.expand(len(logits), -1))
        total = logits.logsumexp(1, keepdim=True)
        own = logits.gather(1, torch.from_numpy(self.targets[part, None]).to(logits.device))
        self.logprobs[part] = (own - total)[:, 0].cpu().numpy()
        self.greedy[part] = (own[:, 0] >= logits.amax(1)).cpu().numpy()
        if self.watch.shape[1]:
            ids = torch.from_numpy(self.watch[part]).clamp(min=0).to(logits.device)
            self.watched[part] = (logits.gather(1, ids) - total).cpu().numpy()
        if self.top_k:
            best = logits.topk(self.top_k, dim=1)
            self.top_ids[part] = best.indices.cpu().numpy()
            self.top[part] = (best.values - total).cpu().numpy()


class ScoringWorker:
    """Mixed into vLLM's worker. Each method is called on all workers at once, `trimtab_take` answers from the one that has the logits."""

    model_runner: Any

    def trimtab_attach(self) -> bool:
        """Look on from now on. Returns False where this vLLM has no such place."""
        runner = self.model_runner
        reported = getattr(runner, "_get_prompt_logprobs_dict", None)
        if reported is None:
            return False
        self.trimtab_rows: dict[int, Rows] = {}

        def look(hidden_states: torch.Tensor, scheduled: dict[str, int]) -> Any:
            if self.trimtab_rows:
                self._trimtab_read(hidden_states, scheduled)
            return reported(hidden_states, scheduled)

        runner._get_prompt_logprobs_dict = look
        return True

    def trimtab_ask(self, wanted: dict[int, Rows]) -> None:
        """From the requests with these marks."""
        self.trimtab_rows = wanted

    def trimtab_take(self) -> dict[int, Rows]:
        """What was found; nothing is wanted any more."""
        found, self.trimtab_rows = self.trimtab_rows, {}
        return found

    def _trimtab_read(self, hidden_states: torch.Tensor, scheduled: dict[str, int]) -> None:
        runner = self.model_runner
        for request_id, count in scheduled.items():
            state = runner.requests[request_id]
            rows = self.trimtab_rows.get(((state.sampling_params and state.sampling_params.extra_args) or {}).get(MARK, -1))
            if rows is None:
                continue
            start = state.num_computed_tokens
            offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]]) - start
            end = min(start + count, rows.first + len(rows.targets))
            for first in range(max(start, rows.first), end, ROWS_AT_ONCE):
                last = min(end, first + ROWS_AT_ONCE)
                logits = runner.model.compute_logits(hidden_states[offset + first : offset + last])
                if logits is not None:
                    rows.read(first - rows.first, logits)
