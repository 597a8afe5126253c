"""Calling a person: a signed webhook, an e-mail. Addresses and secrets come from the environment and stand in no file and no message.

A webhook gets one POST of JSON with the headers
  X-Trimtab-Id         of the action: the same when it is sent again
  X-Trimtab-Timestamp  seconds since 1970
  X-Trimtab-Signature  sha256=<hex>, the HMAC of `TIMESTAMP.BODY` under the shared secret; absent without one
"""

import hashlib
import hmac
import json
import os
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from trimtab.watch.rules import Pages

TIMEOUT_S = 5.0
WAITS_S = (0.5, 2.0)
"""Between the tries; there is one try more than there are waits."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)


def page(pages: Pages, *, id: str, text: str, body: Mapping[str, Any], sleep: Callable[[float], None] = time.sleep) -> tuple[bool, str]:
    """Send on every way there is. Returns whether all of them took it (False if there is none), and what was done."""
    said: list[tuple[bool, str]] = []
    url = os.environ.get(pages.webhook, "") if pages.webhook else ""
    if url:
        secret = os.environ.get(pages.webhook_secret, "") if pages.webhook_secret else ""
        said.append(_webhook(url, secret, id, {**body, "id": id, "text": text}, sleep))
    if pages.mail_to:
        said.append(_mail(pages, id, text, body))
    if not said:
        where = f"set {pages.webhook} to a URL" if pages.webhook else "name a `webhook`"
        return False, f"nobody to page: {where}, or give mail_to, mail_from and smtp under [page] of the rules"
    return all(done for done, _ in said), "; ".join(text for _, text in said)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None  # a page goes to the address that was given, and nowhere else


def _webhook(url: str, secret: str, id: str, body: Mapping[str, Any], sleep: Callable[[float], None]) -> tuple[bool, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return False, "the webhook is no http or https URL"
    raw = json.dumps(body, ensure_ascii=False).encode()
    opener, wrong = urllib.request.build_opener(_NoRedirects), ""
    for wait_s in (*WAITS_S, None):
        at = str(int(time.time()))
        headers = {"Content-Type": "application/json", "X-Trimtab-Id": id, "X-Trimtab-Timestamp": at}
        if secret:
            signature = hmac.new(secret.encode(), at.encode() + b"." + raw, hashlib.sha256).hexdigest()
            headers["X-Trimtab-Signature"] = f"sha256={signature}"
        try:
            with opener.open(urllib.request.Request(url, raw, headers, method="POST"), timeout=TIMEOUT_S) as response:
                return True, f"webhook {parts.hostname} took it ({response.status})"
        except urllib.error.HTTPError as error:
            wrong = f"answered {error.code}"
            if error.code not in AGAIN:
                break
        except (OSError, ValueError) as error:
            wrong = f"cannot be reached ({getattr(error, 'reason', None) or error})"
        if wait_s is not None:
            sleep(wait_s)
    return False, f"webhook {parts.hostname} {wrong}"


def _mail(pages: Pages, id: str, text: str, body: Mapping[str, Any]) -> tuple[bool, str]:
    message = EmailMessage()
    message["Subject"] = " ".join(text.split())[:180]
    message["From"], message["To"] = pages.mail_from, ", ".join(pages.mail_to)
    message["Message-ID"] = f"<{id}@trimtab.invalid>"
    message.set_content(f"{text}\n\n{json.dumps(body, indent=1, ensure_ascii=False)}\n")
    host, _, port = pages.smtp.rpartition(":")
    user, password = (os.environ.get(name, "") if name else "" for name in (pages.smtp_user, pages.smtp_password))
    try:
        with smtplib.SMTP(host, int(port), timeout=TIMEOUT_S) as server:
            if pages.smtp_tls:
                server.starttls(context=ssl.create_default_context())
            if user:
                server.login(user, password)
            server.send_message(message)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return False, f"{host} did not take the e-mail ({type(error).__name__})"
    return True, f"e-mail to {', '.join(pages.mail_to)}"
