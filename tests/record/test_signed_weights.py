"""Weights in the form of the OpenSSF's model-signing: made by its own library, and read by it."""

from pathlib import Path

import pytest

from trimtab.cli.main import main
from trimtab.core.errors import InputError
from trimtab.record.signed_weights import NAME, public_half, sign_weights, weights_key, wrong_weights

verifying = pytest.importorskip("model_signing.verifying", reason="needs model-signing (pip install 'trimtab[sign]')")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(bytes(range(256)) * 40)
    (folder / "sub" / "config.json").write_text("{}")
    return folder


def test_signed_weights_are_those_until_a_byte_changes(tmp_path: Path, weights: Path) -> None:
    key, signature = weights_key(tmp_path / "home"), tmp_path / NAME
    assert key.stat().st_mode & 0o077 == 0
    assert weights_key(tmp_path / "home") == key
    sign_weights(weights, signature, private_key=key)
    assert wrong_weights(weights, signature, public_key=public_half(key)) == ""
    verifying.Config().use_elliptic_key_verifier(public_key=public_half(key)).verify(weights, signature)
    data = bytearray((weights / "model.gguf").read_bytes())
    data[5000] ^= 1
    (weights / "model.gguf").write_bytes(data)
    assert "Hash mismatch for 'model.gguf'" in wrong_weights(weights, signature, public_key=public_half(key))


def test_more_and_fewer_files_are_told(tmp_path: Path, weights: Path) -> None:
    key, signature = weights_key(tmp_path / "home"), weights / NAME  # in the folder: not part of what is signed
    sign_weights(weights, signature, private_key=key)
    assert wrong_weights(weights, signature, public_key=public_half(key)) == ""
    (weights / "more.txt").write_text("x")
    assert "Extra files" in wrong_weights(weights, signature, public_key=public_half(key))
    (weights / "more.txt").unlink()
    (weights / "sub" / "config.json").unlink()
    assert "Missing files" in wrong_weights(weights, signature, public_key=public_half(key))


def test_another_key_and_a_damaged_signature_are_told(tmp_path: Path, weights: Path) -> None:
    key, other, signature = weights_key(tmp_path / "home"), weights_key(tmp_path / "other"), tmp_path / NAME
    sign_weights(weights, signature, private_key=key)
    assert wrong_weights(weights, signature, public_key=public_half(other))
    signature.write_bytes(signature.read_bytes()[:-40])
    assert wrong_weights(weights, signature, public_key=public_half(key))


def test_the_commands_sign_and_check(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    assert main(["release", "sign-weights", str(weights)]) == 0
    assert str(tmp_path / NAME) in capsys.readouterr().out.replace("\n", "")
    assert main(["verify", "weights", str(weights)]) == 0
    (weights / "model.gguf").write_bytes(b"others")
    assert main(["verify", "weights", str(weights)]) == 1
    assert "Hash mismatch" in capsys.readouterr().out
    assert main(["verify", "weights", str(weights), "--key", "nowhere.pem"]) == 2


def test_bad_input_is_one_sentence(tmp_path: Path, weights: Path) -> None:
    key, signature = weights_key(tmp_path / "home"), tmp_path / NAME
    with pytest.raises(InputError, match="There is no"):
        sign_weights(tmp_path / "nothing", signature, private_key=key)
    (weights / "link").symlink_to(weights / "model.gguf")
    with pytest.raises(InputError, match="cannot be signed"):
        sign_weights(weights, signature, private_key=key)
    with pytest.raises(InputError, match="There is no"):
        wrong_weights(weights, signature, public_key=public_half(key))
    (tmp_path / "bad.pem").write_text("no key")
    signature.write_text("{}")
    with pytest.raises(InputError, match="is not an ECDSA key"):
        wrong_weights(weights, signature, public_key=tmp_path / "bad.pem")
