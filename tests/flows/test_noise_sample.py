"""A noise floor that only a small sample made high is measured on more items; others are not."""

import asyncio
import dataclasses
from types import SimpleNamespace

from trimtab.core.evidence import Evidence, Outcome
from trimtab.decide.noise import noise_floor
from trimtab.decide.policies import load_policy
from trimtab.flows.parts import evidence

POLICY = load_policy("standard")
KEPT = {"cloze", "choice"}


def outcome(suite, number, value):
    return Outcome(item_id=f"{suite}-{number}", suite=suite, cluster=f"{suite}-{number}", value=value, n_tokens=4)


def test_only_gates_with_a_floor_too_high_are_measured_again(monkeypatch):
    policy = dataclasses.replace(POLICY, gates=tuple(gate for gate in POLICY.gates if gate.suite in KEPT))
    changes = [0.3, -0.28, *(0.01 if number % 2 else -0.01 for number in range(60))]
    reference = [outcome(suite, number, 1.0) for suite in ("cloze", "choice") for number in range(62)]
    noisy = [outcome("choice", number, 1.0 + change) for number, change in enumerate(changes)]
    sample = {"another batch shape": (*noisy[:3], *(outcome("cloze", number, 1.0 + number / 1000) for number in range(4)))}
    asked = []

    async def score(session, candidate, items, *, phase, what):
        asked.append(items)
        return tuple(noisy)

    monkeypatch.setattr(evidence, "outcomes_on", score)
    bench = SimpleNamespace(policy=policy, variants={"another batch shape": None})
    part = SimpleNamespace(only=lambda suites: tuple(suites))
    found = asyncio.run(evidence.more_noise(SimpleNamespace(fan=None), bench, sample, reference, part))
    assert asked == [("choice",)]
    gates = {gate.suite: gate for gate in policy.gates}

    def floor(suite, noise):
        return noise_floor(gates[suite], Evidence(use="sequential", reference=tuple(reference), candidate=(), noise=noise))

    assert floor("choice", found) * policy.noise_multiple < gates["choice"].margin < floor("choice", sample) * policy.noise_multiple
    assert floor("cloze", found) == floor("cloze", sample)
