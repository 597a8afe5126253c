import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from trimtab.core.errors import InputError
from trimtab.core.policy import Policy
from trimtab.decide.decide import decide, gate_levels
from trimtab.decide.plan import Pilot, pilot_spread, plan_power
from trimtab.decide.policies import check_policy, load_policy, policy_names, policy_sha256

GOOD = """
name = "mine"
version = "3"
alpha = 0.1
looks = [0.25, 1]

[[gates]]
name = "text"
kind = "non_inferiority"
suite = "text"
unit = "nats/token"
margin = 1
reason = "a test"
"""


def test_shipped_policies() -> None:
    assert policy_names() == ["answers", "embedding", "standard", "strict"]
    standard, strict = load_policy("standard"), load_policy("strict")
    by_name = {gate.name: gate for gate in standard.gates}
    assert set(by_name) == {
        "text",
        "cloze",
        "choice",
        "arithmetic",
        "instruct",
        "fairness",
        "refusal",
        "overrefusal",
        "parity",
        "generation",
    }
    assert (by_name["text"].margin, by_name["text"].weight) == (0.02, "tokens")
    assert by_name["fairness"].kind == "equivalence_by_group"
    assert by_name["fairness"].min_clusters >= 60
    assert all(a.margin < b.margin for a, b in zip(strict.gates, standard.gates, strict=True))
    assert all(len(gate.reason) > 20 and gate.control for gate in (*standard.gates, *strict.gates))
    assert (standard.alpha, standard.max_attempts, standard.noise_multiple, standard.power) == (0.05, 3, 3.0, 0.8)
    assert policy_sha256(standard) != policy_sha256(strict)


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD, encoding="utf-8")
    policy = load_policy(file)
    assert (policy.name, policy.gates[0].margin, policy.looks) == ("mine", 1.0, (0.25, 1))
    assert policy_sha256(load_policy(str(file))) == policy_sha256(policy)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("margin = 1", "margin = 0", "above zero"),
        ("margin = 1", "margin = nan", "above zero"),
        ("margin = 1", "margin = inf", "above zero"),
        ("margin = 1", 'margin = "wide"', "must be a float"),
        ("margin = 1", "margin = true", "must be a float"),
        ("margin = 1\n", "", "'margin' is missing"),
        ('reason = "a test"', 'reason = " "', "reason"),
        ('kind = "non_inferiority"', 'kind = "superiority"', "unknown kind"),
        ('suite = "text"', "", "suite"),
        ('suite = "text"', 'suites = "text"', "unknown key 'suites'"),
        ("margin = 1", 'margin = 1\nweight = "words"', "weight"),
        ("margin = 1", "margin = 1\nrequired = false", "requires no gate"),
        ("margin = 1", "margin = 1\nmin_clusters = 1", "min_clusters"),
        ("alpha = 0.1", "alpha = 2", "alpha"),
        ("alpha = 0.1", "alpha = 0.1\nmax_attempts = 0", "max_attempts"),
        ("alpha = 0.1", "alpha = 0.1\npower = 1.5", "power"),
        ("looks = [0.25, 1]", "looks = [0.5, 0.25, 1]", "Looks"),
        ("looks = [0.25, 1]", "looks = 2", "list"),
        ("looks = [0.25, 1]", 'looks = ["half", 1]', "list"),
        ("[[gates]]", "[gates]", "no gates"),
        ('name = "mine"', "name = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_policy_is_named(tmp_path: Path, old: str, new: str, word: str) -> None:
    file = tmp_path / "bad.toml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=word):
        load_policy(file)


def test_policies_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="standard, strict"):
        load_policy("lenient")
    with pytest.raises(InputError, match="cannot be read"):
        load_policy(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(InputError, match="UTF-8"):
        load_policy(tmp_path / "latin.toml")


def test_gates_need_names_of_their_own(made: SimpleNamespace) -> None:
    policy: Policy = made.policy()
    with pytest.raises(InputError, match="same name"):
        check_policy(dataclasses.replace(policy, gates=(*policy.gates, policy.gates[0])))


def test_every_word_of_a_policy_is_in_its_digest(made: SimpleNamespace) -> None:
    policy: Policy = made.policy()
    reworded = dataclasses.replace(policy, gates=(dataclasses.replace(policy.gates[0], reason="other"), *policy.gates[1:]))
    assert policy_sha256(policy) != policy_sha256(reworded)


def test_levels_divide_alpha_by_attempts(made: SimpleNamespace) -> None:
    levels = gate_levels(made.policy(looks=(0.5, 1.0)), looks=(0.5, 1.0), look=1)
    assert levels["parity"].alpha == pytest.approx(0.05 / 3)
    assert levels["choice"].alpha < 0.001


def test_plan_agrees_with_what_is_found_afterwards(made: SimpleNamespace) -> None:
    policy = made.policy()
    base = made.evidence(40, n_clusters=80, n_templates=70)
    pilots = {
        spec.name: pilot
        for spec in policy.gates[:2]
        if (pilot := pilot_spread(spec, base.reference, base.candidate, 80 if spec.name == "choice" else 70))
    }
    plan = plan_power(policy, pilots)
    found = {gate.name: gate for gate in decide(policy, base).gates}
    for gate in plan.gates:
        assert gate.detectable == pytest.approx(found[gate.name].detectable, rel=0.02)
    assert plan.unknown == ("parity",)
    assert plan.joint_power <= min(gate.power for gate in plan.gates)


def test_plan_grows_with_clusters_and_says_what_is_too_small(made: SimpleNamespace) -> None:
    policy = made.policy()
    plans = [plan_power(policy, {"choice": Pilot(sd=0.2, n_clusters=n)}) for n in (20, 40, 80, 400)]
    powers = [plan.joint_power for plan in plans]
    assert powers[0] == 0.0  # fewer than the gate's 30 clusters
    assert powers == sorted(powers)
    assert [plan.gates[0].enough for plan in plans] == [False, False, False, True]
    shares = [plan.joint_detectable for plan in plans]
    assert shares[0] == 0.0
    assert 0.0 < shares[1] < 1.0  # a loss of this share of the margin passes with at most one chance in five


def test_more_gates_have_less_joint_power_and_find_smaller_losses(made: SimpleNamespace) -> None:
    policy = made.policy()
    one = plan_power(policy, {"choice": Pilot(sd=0.15, n_clusters=80)})
    two = plan_power(policy, {"choice": Pilot(sd=0.15, n_clusters=80), "fairness": Pilot(sd=0.25, n_clusters=70, n_groups=5)})
    assert two.joint_power < one.joint_power
    assert two.joint_detectable < one.joint_detectable
    with pytest.raises(InputError, match="not planned"):
        plan_power(policy, {}, look=2)


def test_no_spread_to_plan_from(made: SimpleNamespace) -> None:
    run = made.reference_run(1, n_clusters=1)
    assert pilot_spread(made.policy().gates[0], run, run, 80) is None
