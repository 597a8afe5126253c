"""What is signed of a release: an in-toto Statement v1 in a DSSE envelope (docs/verify.md).

subjects   what is served (weights, deployment), the policy, every file of evidence and every card, each by its sha256
predicate  https://trimtab.dev/attestation/decision/v1: the verdict, and each gate with its interval
signature  Ed25519 over DSSE's v1 encoding of the bytes; keyid: the public key, 64 hex digits
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import canonical_json, to_plain
from trimtab.core.release import Blob, Release

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://trimtab.dev/attestation/decision/v1"
NAME = "statement.dsse.json"
"""Of the envelope beside the evidence."""
_LISTED = {"weights": "snapshot", "deployment": "deployment", "policy": "policy"}
"""Subjects that are no files: their sha256 is that of a canonical JSON text, what of is told by the media type."""
_GATE = ("name", "kind", "verdict", "required", "unit", "margin", "delta", "low", "high", "confidence", "n", "n_clusters")


@dataclass(frozen=True, kw_only=True)
class SignedStatement:
    """A statement that was read. keys: whose signatures are right, of those that were looked for; claimed: key ids that it names"""

    statement: Mapping[str, Any]
    keys: tuple[str, ...]
    claimed: tuple[str, ...]


def statement_of(release: Release, decision: Mapping[str, Any], cards: Sequence[Blob] = ()) -> dict[str, Any]:
    """What is to be signed. decision: decision.json of the release. Raises KeyError, TypeError if it is not whole."""
    digests = {"weights": release.weights_sha256, "deployment": release.deployment_sha256, "policy": release.policy_sha256}
    subjects = [
        {"name": name, "digest": {"sha256": digest}, "mediaType": f"application/vnd.trimtab.{_LISTED[name]}+json"}
        for name, digest in digests.items()
    ]
    subjects += [{"name": blob.name, "digest": {"sha256": blob.sha256}} for blob in (*release.evidence, *cards)]
    predicate = {
        "release": release.id,
        "verdict": release.verdict,
        "policy": release.policy,
        "gates": [{key: gate[key] for key in _GATE} for gate in decision["gates"]],
        "trimtab": version("trimtab"),
    }
    plain: dict[str, Any] = to_plain(
        {"_type": STATEMENT_TYPE, "subject": subjects, "predicateType": PREDICATE_TYPE, "predicate": predicate}
    )
    return plain


def signed(statement: Mapping[str, Any], signers: Mapping[str, Callable[[bytes], str]]) -> bytes:
    """The envelope as JSON. signers: public key (64 hex digits) -> what signs bytes with it, in hex.

    Raises MissingError if the library is not here.
    """
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import Signature
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    envelope = Envelope(canonical_json(statement).encode(), PAYLOAD_TYPE, {})
    for key, sign in signers.items():
        envelope.signatures[key] = Signature(key, sign(envelope.pae()))
    return (canonical_json(envelope.to_dict()) + "\n").encode()


def read_signed(raw: bytes, trusted: Sequence[str], where: str = NAME) -> SignedStatement:
    """The statement of an envelope, and which of these public keys (64 hex digits) signed it.

    The key id of a signature is a hint only: every signature is tried with every key. Raises InputError for what is no envelope with a
    statement, MissingError if the libraries are not here.
    """
    envelope = _envelope(raw, where)
    try:
        statement = json.loads(envelope.payload)
    except (ValueError, RecursionError):
        statement = None
    if envelope.payload_type != PAYLOAD_TYPE or not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise InputError(f"{where} does not hold an in-toto statement.")
    keys = tuple(dict.fromkeys(key for key in trusted if _is_signed_by(envelope, key)))
    return SignedStatement(statement=statement, keys=keys, claimed=tuple(envelope.signatures))


def differences(statement: Mapping[str, Any], release: Release, decision: Mapping[str, Any], cards: Sequence[Blob] = ()) -> list[str]:
    """Sentences on what a statement says otherwise than the release and its decision. Raises KeyError, TypeError if those are not whole."""
    if statement.get("predicateType") != PREDICATE_TYPE:
        return [f"The statement is of another kind ({statement.get('predicateType')!r}) than {PREDICATE_TYPE}."]
    wanted = statement_of(release, decision, cards)
    said, meant = _digests(statement), _digests(wanted)
    if said is None or meant is None:
        return ["The statement does not name its subjects by sha256."]
    told = [f"The statement is not about {name} as the release names it." for name in meant if said.get(name) != meant[name]]
    told += [f"The statement is about {name}, which the release does not name." for name in said if name not in meant]
    predicate = statement.get("predicate")
    for key, value in wanted["predicate"].items():
        found = predicate.get(key) if isinstance(predicate, Mapping) else None
        if key != "trimtab" and found != value:
            told.append(f"The statement says otherwise of {key} than the release and its decision.")
    return told


def _digests(statement: Mapping[str, Any]) -> dict[str, str] | None:
    """Name -> sha256 of every subject; None if one lacks either, or a name comes twice."""
    try:
        pairs = [(str(one["name"]), str(one["digest"]["sha256"])) for one in statement["subject"]]
    except (KeyError, TypeError):
        return None
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else None


def _envelope(raw: bytes, where: str) -> "Envelope":
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import Error
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    try:
        return Envelope.from_dict(json.loads(raw))
    except (Error, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise InputError(f"{where} is not a DSSE envelope; it may be damaged.") from None


def _is_signed_by(envelope: "Envelope", public_hex: str) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError

    for signature in envelope.signatures.values():
        try:
            _key(public_hex, signature.keyid).verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError:
            continue
        return True
    return False


def _key(public_hex: str, key_id: str) -> "SSlibKey":
    from securesystemslib.signer import SSlibKey

    return SSlibKey(key_id, "ed25519", "ed25519", {"public": public_hex})


def _missing(error: ModuleNotFoundError) -> MissingError:
    return MissingError(f"Signed statements need the package {error.name}.", "pip install 'trimtab[release]'")
