"""What a judgement rests on beside its items comes back as it was."""

import dataclasses
import math
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence, GenerationCheck, Outcome, ParityProbe
from trimtab.record.observed import read_observed, write_observed

DEPLOYMENT = "ab" * 32


def outcomes(name: str) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(item_id=f"{name}-{n}", suite="text", cluster=f"c{n}", value=n / 3 if n else None, n_tokens=n + 1) for n in range(4)
    )


EVIDENCE = Evidence(
    use="sequential",
    reference=outcomes("r"),
    candidate=outcomes("r"),
    controls={"text": outcomes("c"), "a/b": outcomes("d"), "a_b": outcomes("e")},
    noise={"other threads and slots": outcomes("n")},
    parity=ParityProbe(differences=(0.1, 1 / 3, -2e-17), answers=(0, 0, 1), n_failed=2, conditions={"kv": "f16"}),
    parity_noise=ParityProbe(differences=(0.0,), answers=(0,)),
    parity_controls={"kv-q4_0": ParityProbe(differences=(1.5,), answers=(0,))},
    generation=GenerationCheck(prompts=("a", "b"), broken=(True, False), why=("loop", ""), texts=("x", "y")),
    generation_reference=GenerationCheck(prompts=("a", "b"), broken=(False, False), why=("", "")),
)


def read(folder: Path) -> Evidence | None:
    return read_observed(folder, DEPLOYMENT, use="sequential", reference=EVIDENCE.reference, candidate=EVIDENCE.candidate)


def test_evidence_comes_back_without_its_texts(tmp_path: Path) -> None:
    write_observed(tmp_path, DEPLOYMENT, EVIDENCE)
    assert EVIDENCE.generation is not None
    assert read(tmp_path) == dataclasses.replace(EVIDENCE, generation=dataclasses.replace(EVIDENCE.generation, texts=()))
    assert not any(b'"x"' in path.read_bytes() for path in (tmp_path / "items").iterdir())


def test_what_is_no_number_stays_none(tmp_path: Path) -> None:
    probe = ParityProbe(differences=(math.nan, math.inf, 0.5), answers=(0, 0, 1))
    write_observed(tmp_path, DEPLOYMENT, dataclasses.replace(EVIDENCE, parity=probe))
    found = read(tmp_path)
    assert found is not None
    assert found.parity is not None
    assert [math.isfinite(one) for one in found.parity.differences] == [False, False, True]


def test_a_control_that_was_not_planted_is_not_there(tmp_path: Path) -> None:
    write_observed(tmp_path, DEPLOYMENT, dataclasses.replace(EVIDENCE, controls={"text": ()}, parity=None))
    found = read(tmp_path)
    assert found is not None
    assert (found.controls, found.parity) == ({}, None)


def test_a_run_of_before_has_none(tmp_path: Path) -> None:
    assert read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "trimtab.served/1"}', '{"schema": "trimtab.served/1", "parity": 3}'])
def test_damage_is_one_sentence(tmp_path: Path, text: str) -> None:
    write_observed(tmp_path, DEPLOYMENT, EVIDENCE)
    next((tmp_path / "items").glob("served.*")).write_text(text)
    with pytest.raises(InputError, match="served"):
        read(tmp_path)


def test_a_file_under_anothers_name_is_told(tmp_path: Path) -> None:
    write_observed(tmp_path, DEPLOYMENT, EVIDENCE)
    (control,) = (tmp_path / "items").glob("control.text.*")
    control.rename(control.with_name(control.name.replace("control.text", "noise.text")))
    with pytest.raises(InputError, match="other outcomes than its name says"):
        read(tmp_path)
