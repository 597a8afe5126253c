"""Keys, tokens and passwords in a text, by the plugins of detect-secrets. Nothing is sent anywhere to verify what is found."""

import functools
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, check_options, missing

REACH_CHARS = 8192
LONGEST_TOKEN = 2048
# The plugins by module and class. Public addresses of machines are `personal`'s; entropy alone is no secret outside quotes.
PLUGINS = (
    "artifactory:ArtifactoryDetector",
    "aws:AWSKeyDetector",
    "azure_storage_key:AzureStorageKeyDetector",
    "basic_auth:BasicAuthDetector",
    "cloudant:CloudantDetector",
    "discord:DiscordBotTokenDetector",
    "github_token:GitHubTokenDetector",
    "gitlab_token:GitLabTokenDetector",
    "ibm_cloud_iam:IbmCloudIamDetector",
    "jwt:JwtTokenDetector",
    "mailchimp:MailchimpDetector",
    "npm:NpmDetector",
    "openai:OpenAIDetector",
    "pypi_token:PypiTokenDetector",
    "sendgrid:SendGridDetector",
    "slack:SlackDetector",
    "square_oauth:SquareOAuthDetector",
    "stripe:StripeDetector",
    "telegram_token:TelegramBotTokenDetector",
    "twilio:TwilioKeyDetector",
)
# These guess by the look of a value or the name before it: their finds are weighed once more.
GUESSING = ("keyword:KeywordDetector", "high_entropy_strings:Base64HighEntropyString", "high_entropy_strings:HexHighEntropyString")
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----(?:[^-]{0,7000}(?:-----END [A-Z0-9 ]{2,40}-----)?)?"
)
# No secret is found where no run of so many characters stands and nothing is quoted: most prose is passed by in one search.
LIKELY = re.compile(r"\S{10}|[\"`]|(?<![A-Za-z])'|'(?![A-Za-z])|-----")
KEY_BEGINS = "-----BEGIN "
# What detect-secrets 1.5 does not know: newer forms of keys.
NEWER = re.compile(
    r"\b(?:sk-(?:proj|ant|or|svcacct)-[\w-]{20,200}|hf_[A-Za-z]{30,40}|github_pat_\w{50,100}|AIza[\w-]{35}|glpat-[\w-]{20,30}|xai-\w{40,100}"
    r"|gsk_\w{40,60}|dop_v1_[0-9a-f]{64})"
)
OPEN_QUOTE = re.compile(r"[\w\]\"'] ?(?::=|=>|={1,3}|:) ?([\"'`][^\"'\n]{0,200})\Z")
JWT_END = re.compile(r"[\w.+/=-]*")


class Secrets(Guard):
    """Rules: `secrets.private-key`, and one for each plugin, such as `secrets.aws-access-key`. Options: `guesses` (true): also values that
    only look random in quotes, or stand in quotes after a name like `password`."""

    name = "secrets"
    reach_chars = REACH_CHARS

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("guesses",))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        self._sure = _plugins(PLUGINS)
        self._guessing = _plugins(GUESSING) if options.get("guesses", True) else ()

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        if not LIKELY.search(text, start):
            return ()
        found = list(_private_keys(text, start)) if KEY_BEGINS in text else []
        begin = text.rfind("\n", 0, start) + 1
        for line in text[begin:].split("\n"):
            if line and begin + len(line) > start:
                found += [one for one in self._in_line(line, begin) if one.start >= start]
            begin += len(line) + 1
        blocks = [one for one in found if one.rule == "secrets.private-key"]
        return tuple(one for one in found if one in blocks or not any(b.start <= one.start < b.end for b in blocks))

    def open_from(self, text: str, start: int = 0) -> int:
        """The last token, a quotation that may end as a value, a private key without its end."""
        key = text.rfind(KEY_BEGINS, start)
        if key >= 0 and len(text) - key < REACH_CHARS and not re.search(r"-----END [A-Z0-9 ]+-----", text[key:]):
            return key
        tail = max(start, len(text) - LONGEST_TOKEN)
        at = len(text)
        while at > tail and not text[at - 1].isspace():
            at -= 1
        quote = OPEN_QUOTE.search(text, max(0, len(text) - 300))
        return max(start, min(at, quote.start(1))) if quote else at

    def _in_line(self, line: str, begin: int) -> Iterator[Finding]:
        places = [("newer-key", "the form of a key of a known service", 1.0, match.span()) for match in NEWER.finditer(line)]
        for plugin in self._sure:
            kind = plugin.secret_type
            places += [(_slug(kind), f"the form of: {kind}", 1.0, span) for span in _spans(plugin, line)]
        for plugin in self._guessing:
            kind = plugin.secret_type
            values = [value for value in plugin.analyze_string(line) if _is_secret(plugin, value)]
            places += [(_slug(kind), f"looks like: {kind}", 0.6, span) for value in values for span in _places(line, value)]
        seen: set[tuple[int, int]] = set()
        for rule, reason, score, (start, end) in places:
            if (start, end) not in seen:
                seen.add((start, end))
                yield Finding(
                    rule=f"secrets.{rule}", start=begin + start, end=begin + end, reason=reason, score=score, replacement="[SECRET]"
                )


def _spans(plugin: Any, line: str) -> Iterator[tuple[int, int]]:
    """Places of what a plugin's patterns match: the group that holds the value, else the whole. (Its own method gives the groups alone,
    which for some kinds is only the beginning of a key.)"""
    for pattern in plugin.denylist:
        for match in pattern.finditer(line):
            spans = [match.span(group) for group in range(1, pattern.groups + 1) if len(match.group(group) or "") >= 8] or [match.span()]
            for start, end in spans:
                if not hasattr(plugin, "is_formally_valid"):
                    yield start, end
                elif plugin.is_formally_valid(line[start:end]):
                    rest = JWT_END.match(line, end)
                    yield start, rest.end() if rest else end


def _private_keys(text: str, start: int) -> Iterator[Finding]:
    for match in PRIVATE_KEY.finditer(text, start):
        yield Finding(
            rule="secrets.private-key", start=match.start(), end=match.end(), reason="a private key block", replacement="[PRIVATE KEY]"
        )


def _places(line: str, value: str) -> Iterator[tuple[int, int]]:
    """All places of a value; plugins give values, not places."""
    at = line.find(value) if len(value) >= 4 else -1
    while at >= 0:
        yield at, at + len(value)
        at = line.find(value, at + len(value))


def _is_secret(plugin: Any, value: str) -> bool:
    """Whether a guess is worth telling, by detect-secrets' own filters of what usually is none."""
    from detect_secrets.filters import heuristic

    if len(value) > LONGEST_TOKEN or heuristic.is_sequential_string(value) or heuristic.is_potential_uuid(value):
        return False
    if heuristic.is_templated_secret(value) or heuristic.is_prefixed_with_dollar_sign(value) or heuristic.is_not_alphanumeric_string(value):
        return False
    limit = getattr(plugin, "entropy_limit", None)
    return limit is None or (len(value) >= 16 and plugin.calculate_shannon_entropy(value) > limit)


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


@functools.cache
def _plugins(names: Sequence[str]) -> tuple[Any, ...]:
    try:
        return tuple(
            getattr(importlib.import_module(f"detect_secrets.plugins.{name.partition(':')[0]}"), name.partition(":")[2])() for name in names
        )
    except ImportError as error:
        raise missing("secrets", "detect-secrets", "pip install 'trimtab[guard]'") from error
