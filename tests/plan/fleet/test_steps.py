"""Step models: the table is the model, fits find what was put in, files are read or refused with a sentence."""

from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.plan.fleet.steps import AffineSteps, Observed, fitted, read_steps, tabled

STEPS = AffineSteps(fixed_s=0.01, sequence_s=0.001, context_token_s=1e-6, prompt_token_s=1e-4, prompt_pair_s=1e-8)


@pytest.mark.parametrize(
    "steps", [STEPS, AffineSteps(fixed_s=0.02, prompt_token_s=1e-4, decode_knots_s=((1, 0.01), (3, 0.011), (8, 0.03)))]
)
def test_a_table_of_an_affine_model_is_that_model(steps: AffineSteps) -> None:
    table = tabled(steps, max_batch=9, batch_tokens=700)
    assert table.departure < 1e-9
    for batch in range(1, 10):
        assert table.decode_s(batch, 777.0) == pytest.approx(steps.decode_s(batch, 777.0))
        for tokens in (1, 5, 333, 691):
            pairs = tokens * (tokens - 1) / 2
            assert table.mixed_s(batch, 50.0, tokens, pairs) == pytest.approx(steps.mixed_s(batch, 50.0, tokens))
    assert table.mixed_s(0, 0.0, 100, 100 * (400 + 99 / 2)) == pytest.approx(steps.prefill_s(100, 400.0))


def test_a_model_that_bends_is_said_to_depart() -> None:
    class Roofline:
        """Compute and memory, whichever is slower: decoding bends over batch, prompts are free beside it up to a point."""

        def decode_s(self, batch: int, mean_context: float) -> float:
            return max(0.01 + 1e-7 * batch * mean_context, 2e-4 * batch)

        def prefill_s(self, tokens: int, context: float) -> float:
            return max(0.01, 2e-4 * tokens + 1e-9 * tokens * context)

        def mixed_s(self, batch: int, mean_context: float, prefill_tokens: int) -> float:
            return max(self.decode_s(batch, mean_context), 2e-4 * (batch + prefill_tokens))

    table = tabled(Roofline(), max_batch=64, batch_tokens=512)
    assert 0.0 < table.departure < 0.2
    assert table.mixed_s(4, 2112.0, 8, 0.0) == pytest.approx(Roofline().decode_s(4, 2112.0), rel=0.01)
    assert table.mixed_s(4, 2112.0, 508, 0.0) == pytest.approx(2e-4 * 512, rel=0.05)


def test_a_fit_finds_what_was_put_in() -> None:
    rows = [Observed(seconds=STEPS.decode_s(b, c), batch=b, mean_context=c) for b in (1, 2, 8) for c in (10.0, 900.0)]
    rows += [Observed(seconds=STEPS.prefill_s(n, c), prompt_tokens=n, context=c) for n in (10, 100, 900) for c in (0.0, 3000.0)]
    found = fitted(rows)
    for key, value in vars(STEPS).items():
        if key != "decode_knots_s":
            assert getattr(found, key) == pytest.approx(value, rel=1e-5), key
    bent = AffineSteps(fixed_s=0.02, prompt_token_s=1e-4, context_token_s=1e-6, decode_knots_s=((1, 0.01), (4, 0.05), (8, 0.06)))
    rows = [Observed(seconds=bent.decode_s(b, c), batch=b, mean_context=c) for b in (1, 2, 4, 6, 8) for c in (10.0, 900.0)]
    rows += [Observed(seconds=bent.prefill_s(n, 0.0), prompt_tokens=n) for n in (10, 100, 900)]
    found = fitted(rows, knots=[1, 4, 8])
    assert [s for _, s in found.decode_knots_s] == pytest.approx([0.01, 0.05, 0.06], rel=1e-5)
    assert found.fixed_s == pytest.approx(0.02, rel=1e-5)


def test_a_fit_needs_rows_that_tell() -> None:
    with pytest.raises(InputError, match="with and without prompt tokens"):
        fitted([Observed(seconds=1.0, batch=1)] * 4)
    with pytest.raises(InputError, match="how long a batch of 4 takes"):
        fitted(
            [*(Observed(seconds=0.01 * b, batch=b, mean_context=10.0) for b in (1, 4)), Observed(seconds=1.0, prompt_tokens=3)],
            knots=[1, 4],
        )
    with pytest.raises(InputError, match="above 0"):
        fitted([Observed(seconds=0.0, batch=1), Observed(seconds=1.0, prompt_tokens=3), Observed(seconds=1.0, batch=2)])


def test_files_of_coefficients_and_of_timed_steps(tmp_path: Path) -> None:
    path = tmp_path / "steps.toml"
    path.write_text("prompt_token_s = 1e-4\nfixed_s = 0.02\ndecode_knots_s = [[1, 0.01], [8, 0.06]]\n")
    assert read_steps(path) == AffineSteps(prompt_token_s=1e-4, fixed_s=0.02, decode_knots_s=((1, 0.01), (8, 0.06)))
    rows = "".join(f"[[step]]\nseconds = {STEPS.decode_s(b, 10)}\nbatch = {b}\nmean_context = 10\n" for b in (1, 4, 8))
    path.write_text(rows + "".join(f"[[step]]\nseconds = {0.01 + 1e-4 * n}\nprompt_tokens = {n}\n" for n in (10, 500)))
    assert read_steps(path).prompt_token_s == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fixed_ms = 3", "'fixed_ms' is no coefficient"),
        ("fixed_s = -1", "fixed_s must be a number of at least 0, not -1"),
        ("prompt_token_s = 1e-4", "a step must take time"),
        ("decode_knots_s = [[8, 0.1], [1, 0.2]]", "must rise"),
        ("[[step]]\nbatch = 1", "step 1 needs seconds"),
        ("fixed_s = ", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "steps.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_steps(path)
