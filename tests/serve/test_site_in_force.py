"""What a site says of its sockets holds on them, and what a reload may change is changed by it."""

import datetime
import ipaddress
import json
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from running_gateway import Running

from trimtab.serve.server_process import free_port
from trimtab.testing.fake_server import FakeServer

BODY = {"model": "chat", "messages": [{"role": "user", "content": "What day comes after Monday?"}], "max_tokens": 4}


def write_certificate(folder: Path) -> None:
    """`cert.pem` and `key.pem` for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)


@pytest.mark.slow
def test_tls_no_cors_and_what_a_reload_changes(gateway: Callable[..., Running], tmp_path: Path) -> None:
    write_certificate(tmp_path)
    listen = f'[listen]\ntls_certificate = "cert.pem"\ntls_key = "key.pem"\nadmin_port = {free_port()}\n'
    with FakeServer() as server:
        text = f'{listen}[[models]]\nname = "chat"\nurl = "{server.url}"\nupstream_model = "m"\nslots = 4\n'
        running = gateway(text)
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        headers = {"content-type": "application/json", "origin": "https://elsewhere.example"}

        def answer(context: ssl.SSLContext | None = trusted, method: str = "POST", **more: str) -> tuple[Any, dict[str, str]]:
            url = f"{running.url}/chat/completions"
            request = urllib.request.Request(url, json.dumps(BODY).encode(), {**headers, **more}, method=method)
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                return json.load(response), {name.lower(): value for name, value in response.headers.items()}

        assert running.url.startswith("https://127.0.0.1:")
        found, told = answer()
        assert found["choices"][0]["message"]["content"]
        assert not [name for name in told if name.startswith("access-control-")], "no page of another origin may read it"
        with pytest.raises(urllib.error.HTTPError) as preflight:
            answer(method="OPTIONS", **{"access-control-request-method": "POST"})
        preflight.value.close()
        assert preflight.value.code == 405
        assert not [name for name in preflight.value.headers if name.lower().startswith("access-control-")]
        with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
            answer(ssl.create_default_context())
        assert not (running.home / "captures").exists()
        (tmp_path / "site.toml").write_text(f"capture_pct = 100\naudit_sync_ms = 5\n{text}")
        with urllib.request.urlopen(urllib.request.Request(f"{running.admin_url}/reload", b"", method="POST"), timeout=10) as response:
            assert response.status == 200
        answer()
        give_up_s = time.monotonic() + 30
        while not (lines := [line for file in running.home.glob("captures/*") for line in file.read_text().splitlines()]):
            assert time.monotonic() < give_up_s, "a capture is kept once the answer is out"
            time.sleep(0.05)
        (kept,) = map(json.loads, lines)
        assert BODY["messages"][0]["content"] in kept["input"]
    code, said = running.end()
    assert code == 0
    assert "only a restart changes: audit_sync_ms\n" in said


@pytest.mark.slow
def test_a_client_that_keeps_tls_open_does_not_hold_up_the_end(gateway: Callable[..., Running], tmp_path: Path) -> None:
    write_certificate(tmp_path)
    listen = '[listen]\ntls_certificate = "cert.pem"\ntls_key = "key.pem"\n'
    before = "import trimtab.serve.connections as c; c.CLOSE_S = 0.2"
    running = gateway(f'{listen}[[models]]\nname = "chat"\nurl = "http://127.0.0.1:9/v1"\nslots = 4\n', before=before)
    host, port = urllib.parse.urlsplit(running.url).netloc.split(":")
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with socket.create_connection((host, int(port))) as plain, trusted.wrap_socket(plain, server_hostname=host) as kept:
        kept.sendall(b"GET /v1/models HTTP/1.1\r\nhost: here\r\n\r\n")
        assert kept.recv(100).startswith(b"HTTP/1.1 200")
        began_s = time.monotonic()
        code, _ = running.end()
        assert code == 0
        assert time.monotonic() - began_s < 15
