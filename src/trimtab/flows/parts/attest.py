"""The cards and the signed statement that a release is entered with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.core.errors import MissingError
from trimtab.core.release import Blob, Release
from trimtab.package.cards.facts import CardFacts
from trimtab.package.formats import card_files
from trimtab.record.checkpoints import Signer
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.home import state_dir
from trimtab.record.people_keys import signer_of
from trimtab.record.statements import NAME, signed, statement_of


def keep_cards(facts: CardFacts, release: Release, store: EvidenceStore) -> tuple[Blob, ...]:
    """Make the cards of a release and keep them; none without the extra `package`. facts: of its run. Raises InputError, MissingError."""
    try:
        files = card_files("cards", replace(facts, release=release))
    except MissingError:
        return ()
    return tuple(store.put_bytes(data, name=name) for name, data in files.items())


def attest(release: Release, decision: Mapping[str, Any], store: EvidenceStore, *, cards: Sequence[Blob] = (), key: str = "") -> str:
    """Sign what is said of a release with the key of this installation, and that of its proposer, and keep it; its sha256.

    key: public key of the proposer, as the ledger has it; empty = has none. Raises InputError (the key is not here), MissingError.
    """
    home = state_dir()
    own = Signer.of(home)
    signers: dict[str, Callable[[bytes], str]] = {own.public_hex: lambda data: own.key.sign(data).hex()}
    if key:
        signers[key] = signer_of(home, release.by, key)
    return store.put_bytes(signed(statement_of(release, decision, cards), signers), name=NAME).sha256
