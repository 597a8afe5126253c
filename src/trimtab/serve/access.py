"""Who asks, and whether they may. Refusals in the form that OpenAI's clients know."""

from collections.abc import Mapping
from typing import Protocol

from trimtab.record.identities import Key
from trimtab.serve.base import Refusal


class Keys(Protocol):
    """Keys by their secrets."""

    def find(self, secret: str) -> Key | None:
        """The key that a secret belongs to; None if there is none that is active. Raises Refusal (503) where that cannot be told now."""
        ...


class Access:
    """The door of the gateway. keyring: None where a site has no keys at all."""

    def __init__(self, keyring: Keys | None) -> None:
        self._keyring = keyring

    def check(self, headers: Mapping[str, str], *, need_key: bool) -> Key | None:
        """The key of a request, header names in lower case. None where none is needed and no valid one was given. Raises Refusal (401)."""
        secret = secret_of(headers)
        key = self._keyring.find(secret) if secret and self._keyring is not None else None
        if key is None and need_key:
            raise Refusal(
                401,
                "This API key is not valid here: it is unknown, expired or revoked."
                if secret
                else "An API key is needed; send it as `Authorization: Bearer KEY`.",
                code="invalid_api_key" if secret else "missing_api_key",
            )
        return key

    def may_use(self, key: Key | None, model: str) -> bool:
        """Whether a key may ask for a model. Where it may not, the model does not exist for it."""
        return key is None or key.allows_model(model)

    def check_verb(self, key: Key | None, verb: str) -> None:
        """Raises Refusal (403) if the key is not for this kind of request."""
        if key is not None and not key.allows_verb(verb):
            raise Refusal(
                403,
                f"This API key may not be used for a {verb} request; it is for {', '.join(key.verbs)}.",
                kind="permission_error",
                code="verb_not_allowed",
            )


def secret_of(headers: Mapping[str, str]) -> str:
    """The secret in `authorization: Bearer ...`, else in `api-key` (Azure's name) or `x-api-key`; empty if there is none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and given.strip():
        return given.strip()
    return (headers.get("api-key") or headers.get("x-api-key") or "").strip()
