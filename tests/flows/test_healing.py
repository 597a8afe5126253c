"""Which candidate a search heals, and on how much text: by what is known of the rows, and by the time there is."""

from types import SimpleNamespace

import pytest

from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts import healing
from trimtab.flows.parts.screening import why_screened_out

POLICY = load_policy("standard")
LOST = ScreenResult(
    kl_nats=0.3,
    kl_se=0.01,
    top1_agreement=0.7,
    top1_se=0.01,
    delta_nats_per_token=-0.2,
    delta_se=0.01,
    n_tokens=4000,
    n_passages=40,
)


def row(ratio: float, *, screen=LOST, reasons=None):
    lost = [why_screened_out(screen, POLICY)] if reasons is None else reasons
    return SimpleNamespace(candidate=object(), probe=SimpleNamespace(ratio=ratio), screen=screen, reasons=lost)


def lossy(**rows):
    return healing._lossy(SimpleNamespace(rows=rows, policy=POLICY))  # type: ignore[arg-type]


def test_the_fastest_that_only_its_loss_ruled_out() -> None:
    slow, fast, fine = row(1.5), row(2.0), row(1.2, reasons=[])
    assert lossy(slow=slow, fast=fast, fine=fine) == [fast, slow]


def test_what_is_no_faster_than_something_that_may_pass_does_not_pay() -> None:
    assert lossy(lossy=row(1.5), fine=row(1.6, reasons=[])) == []
    assert lossy(lossy=row(0.9)) == [], "nor what is slower than the baseline"


def test_what_is_out_for_another_reason_is_left_alone() -> None:
    assert lossy(late=row(2.0, reasons=["Not tried: the time limit left no room for it."])) == []
    assert lossy(both=row(2.0, reasons=[why_screened_out(LOST, POLICY), "It misses a demand."])) == []


def test_tokens_that_the_time_pays_for() -> None:
    n_params, rate = 135_000_000, 100.0
    second_tokens = rate * 1e9 / (healing.FLOPS_PER_WEIGHT * n_params)
    assert healing.affordable_tokens(600, n_params, rate) == int(healing.TRAINING_SHARE * 600 * second_tokens) - healing.START_TOKENS
    assert healing.affordable_tokens(1e9, n_params, rate) <= healing.MOST_TOKENS
    assert healing.affordable_tokens(10, n_params, rate) < healing.LEAST_TOKENS
    assert healing.affordable_tokens(600, n_params, None) < 0, "a rate that is not known pays for nothing"


def test_a_policy_that_forbids_it_is_another_policy(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\nversion = "1"\n[[gates]]\nname = "text"\nkind = "non_inferiority"\nsuite = "text"\nunit = "nats/token"\n'
                    'margin = 0.02\nreason = "test"\n')  # fmt: skip
    free = load_policy(path)
    path.write_text("healing = false\n" + path.read_text())
    bound = load_policy(path)
    assert (free.healing, bound.healing) == (True, False)
    assert policy_sha256(free) != policy_sha256(bound)


@pytest.mark.parametrize("name", ["standard", "strict"])
def test_shipped_policies_allow_it(name: str) -> None:
    assert load_policy(name).healing
