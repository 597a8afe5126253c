"""Logits for every token of a window, by the engine that a file of weights is for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Windows = Sequence[Sequence[int]]


def logits_of(path: Path, windows: Windows) -> Iterator[npt.NDArray[np.float32]]:
    """[tokens, vocabulary] of each window, each on its own. path: a GGUF file or an OpenVINO directory."""
    return _llamacpp(path, windows) if path.suffix == ".gguf" else _openvino(path, windows)


def divergences(path: Path, windows: Windows, reference: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean KL(reference || engine) in nats a token, of each window. reference: [windows, tokens, vocabulary] log-probabilities."""
    found = []
    for logits, theirs in zip(logits_of(path, windows), reference, strict=True):
        own = logits.astype(np.float64)
        own -= np.log(np.exp(own - own.max(-1, keepdims=True)).sum(-1, keepdims=True)) + own.max(-1, keepdims=True)
        wide = theirs.astype(np.float64)
        found.append(float((np.exp(wide) * (wide - own)).sum(-1).mean()))
    return np.array(found)


def _llamacpp(path: Path, windows: Windows) -> Iterator[npt.NDArray[np.float32]]:
    import llama_cpp

    length = len(windows[0])
    model = llama_cpp.Llama(str(path), n_ctx=length, n_batch=length, n_ubatch=length, logits_all=True, verbose=False)
    for window in windows:
        model.reset()
        model.eval(list(window))
        yield model.scores[:length].copy()
    model.close()


def _openvino(path: Path, windows: Windows) -> Iterator[npt.NDArray[np.float32]]:
    from trimtab.compress.openvino import import_openvino

    openvino = import_openvino()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path / "openvino_model.xml")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    for window in windows:
        request.reset_state()
        inputs = {
            "input_ids": np.array([window], np.int64),
            "attention_mask": np.ones((1, len(window)), np.int64),
            "position_ids": np.arange(len(window), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        yield np.array(request.infer(inputs)["logits"][0], np.float32)
