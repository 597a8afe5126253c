"""Signed statements: what they say, and that other people's library reads ours and we read theirs."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json
from trimtab.core.release import Blob, IntendedUse, Release
from trimtab.record.statements import PAYLOAD_TYPE, PREDICATE_TYPE, differences, read_signed, signed, statement_of

GATE = {
    "name": "text",
    "kind": "non_inferiority",
    "verdict": "pass",
    "required": True,
    "unit": "nats/token",
    "margin": 0.02,
    "delta": -0.0107,
    "low": -0.0159,
    "high": None,
    "confidence": 0.968,
    "n": 56,
    "n_clusters": 56,
}
DECISION = {"gates": [GATE]}


def digest(letter: str) -> str:
    return letter * 64


RELEASE = Release(
    name="support-chat",
    number=3,
    verdict="pass",
    decision_sha256=digest("a"),
    policy="standard",
    policy_sha256=digest("b"),
    deployment_sha256=digest("c"),
    weights_sha256=digest("d"),
    lock_sha256=digest("e"),
    evidence=(
        Blob(name="decision.json", sha256=digest("a"), size_bytes=10),
        Blob(name="items/text-1.parquet", sha256=digest("f"), size_bytes=20),
    ),
    licences=(),
    use=IntendedUse(),
    made="2026-11-27T08:00:00+00:00",
    by="alice",
)
KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def ours(*keys: Ed25519PrivateKey) -> bytes:
    return signed(statement_of(RELEASE, DECISION), {public(key): lambda data, key=key: key.sign(data).hex() for key in keys})


def test_a_statement_names_everything_by_its_digest() -> None:
    statement = statement_of(RELEASE, DECISION)
    assert (statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", PREDICATE_TYPE)
    assert {one["name"]: one["digest"]["sha256"] for one in statement["subject"]} == {
        "weights": digest("d"),
        "deployment": digest("c"),
        "policy": digest("b"),
        "decision.json": digest("a"),
        "items/text-1.parquet": digest("f"),
    }
    assert statement["predicate"]["release"] == "support-chat@3"
    assert statement["predicate"]["gates"] == [GATE]
    assert differences(statement, RELEASE, DECISION) == []


def test_cards_are_subjects_too() -> None:
    card = Blob(name="README.md", sha256=digest("9"), size_bytes=1)
    statement = statement_of(RELEASE, DECISION, [card])
    assert differences(statement, RELEASE, DECISION, [card]) == []
    assert "about README.md, which the release does not name" in differences(statement, RELEASE, DECISION)[0]
    assert "not about README.md" in differences(statement_of(RELEASE, DECISION), RELEASE, DECISION, [card])[0]


def test_the_attestation_library_takes_the_statement() -> None:
    json_format = pytest.importorskip("google.protobuf.json_format", reason="needs in-toto-attestation (pip install 'trimtab[sign]')")
    v1 = pytest.importorskip("in_toto_attestation.v1.statement", reason="needs in-toto-attestation (pip install 'trimtab[sign]')")
    message = json_format.Parse(canonical_json(statement_of(RELEASE, DECISION)), v1.Statement([], "", {}).pb)
    read = v1.Statement.copy_from_pb(message)
    read.validate()
    assert [one.name for one in read.pb.subject] == ["weights", "deployment", "policy", "decision.json", "items/text-1.parquet"]
    assert read.pb.subject[0].media_type == "application/vnd.trimtab.snapshot+json"


def test_securesystemslib_verifies_our_envelope() -> None:
    envelope = Envelope.from_dict(json.loads(ours(KEY)))
    right, wrong = (SSlibKey.from_crypto(key.public_key(), keyid=public(KEY)) for key in (KEY, OTHER))
    assert envelope.verify([right], 1) == {public(KEY): right}
    with pytest.raises(VerificationError):
        envelope.verify([wrong], 1)
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([right], 1)


def test_we_verify_an_envelope_of_securesystemslib() -> None:
    """With its own key ids: they are hints, and no key is looked up by them."""
    envelope = Envelope(canonical_json(statement_of(RELEASE, DECISION)).encode(), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(KEY))
    raw = json.dumps(envelope.to_dict(), indent=1).encode()
    read = read_signed(raw, [public(OTHER), public(KEY)])
    assert read.keys == (public(KEY),)
    assert read.claimed != (public(KEY),)
    assert differences(read.statement, RELEASE, DECISION) == []


def test_who_signed_is_told_for_each_key() -> None:
    raw = ours(KEY, OTHER)
    stranger = Ed25519PrivateKey.generate()
    assert read_signed(raw, [public(OTHER), public(KEY), public(OTHER)]).keys == (public(OTHER), public(KEY))
    assert read_signed(raw, [public(stranger)]).keys == ()
    assert read_signed(raw, []).claimed == (public(KEY), public(OTHER))


@pytest.mark.parametrize("part", ["payload", "payloadType", "sig"])
def test_a_changed_envelope_is_signed_by_nobody(part: str) -> None:
    document = json.loads(ours(KEY))
    if part == "payload":
        statement = {**statement_of(RELEASE, DECISION), "more": 1}
        document["payload"] = base64.b64encode(canonical_json(statement).encode()).decode()
    elif part == "sig":
        document["signatures"][0]["sig"] = base64.b64encode(OTHER.sign(b"")).decode()
    else:
        document["payloadType"] = "application/json"
        with pytest.raises(InputError, match="does not hold an in-toto statement"):
            read_signed(json.dumps(document).encode(), [public(KEY)])
        return
    assert read_signed(json.dumps(document).encode(), [public(KEY)]).keys == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"payload": "", "payloadType": 1, "signatures": []}',
        b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": 1}]}',
        b'{"payload": "!", "payloadType": "application/vnd.in-toto+json", "signatures": 3}',
        b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}',
    ],
)
def test_what_is_no_statement_is_one_sentence(raw: bytes) -> None:
    with pytest.raises(InputError, match=r"is not a DSSE envelope|does not hold an in-toto statement"):
        read_signed(raw, [public(KEY)])


def changed(part: str) -> dict[str, Any]:
    statement = json.loads(canonical_json(statement_of(RELEASE, DECISION)))
    if part == "kind":
        statement["predicateType"] = "https://slsa.dev/verification_summary/v1"
    elif part == "verdict":
        statement["predicate"]["verdict"] = "fail"
    elif part == "gate":
        statement["predicate"]["gates"][0]["delta"] = -0.0106
    elif part == "subject":
        statement["subject"][0]["digest"]["sha256"] = digest("0")
    elif part == "more":
        statement["subject"].append({"name": "other", "digest": {"sha256": digest("0")}})
    elif part == "twice":
        statement["subject"].append(statement["subject"][0])
    elif part == "no digest":
        statement["subject"][0]["digest"] = {"md5": "0"}
    else:
        statement["predicate"] = None
    return dict(statement)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("kind", "of another kind"),
        ("verdict", "otherwise of verdict"),
        ("gate", "otherwise of gates"),
        ("subject", "not about weights as the release names it"),
        ("more", "about other, which the release does not name"),
        ("twice", "does not name its subjects"),
        ("no digest", "does not name its subjects"),
        ("nothing", "otherwise of release"),
    ],
)
def test_what_a_statement_says_otherwise_is_told(part: str, words: str) -> None:
    assert words in " ".join(differences(changed(part), RELEASE, DECISION))
