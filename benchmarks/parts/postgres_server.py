"""A real PostgreSQL server of one's own: made in a temporary folder, on a free port, gone when the block or its process ends."""

import contextlib
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

USER = "ledger"
_START_S = 60.0


class Server:
    """A server that was started. folder: all that it keeps; password: of USER"""

    def __init__(self, binaries: Path, folder: Path, *, is_durable: bool) -> None:
        self.folder = folder
        self.password = secrets.token_hex(12)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "max_connections": "60"}
        if not is_durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(self.port), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._make(binaries)
        self.start()

    def start(self) -> None:
        """Returns once it answers. Raises RuntimeError."""
        self._process = _as_nobody(self._command, self.folder)
        ends = time.monotonic() + _START_S
        while True:
            try:
                self.run("SELECT 1")
            except Exception:
                if self._process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"PostgreSQL did not start: {self._log()}") from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """At once: nothing is settled, every connection breaks."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def url(self, database: str, *, user: str = USER, password: str | None = None) -> str:
        """Of a database that is there or not."""
        return f"postgresql://{user}:{self.password if password is None else password}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, database: str = "postgres") -> list[list[object]]:
        """A statement by itself, outside any transaction; its rows."""
        import pg8000.dbapi

        connection = pg8000.dbapi.connect(USER, "127.0.0.1", database, self.port, self.password)
        try:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return [list(row) for row in cursor.fetchall()] if cursor.description else []
        finally:
            connection.close()

    def new_database(self) -> str:
        """The name of an empty database."""
        name = f"d{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def _make(self, binaries: Path) -> None:
        (self.folder / "password").write_text(self.password)
        if (account := _account()) is not None:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = [f"--pwfile={self.folder / 'password'}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if _as_nobody([str(binaries / "initdb"), "-D", str(self.folder / "data"), "-U", USER, *options], self.folder).wait():
            raise RuntimeError(f"PostgreSQL could not be set up: {self._log()}")

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


def find_binaries() -> Path | None:
    """The folder of initdb and postgres, None if there is none."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if path.parts[-3].isdigit()]
    if found:
        return max(found, key=lambda path: int(path.parts[-3])).parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextlib.contextmanager
def server(binaries: Path, *, is_durable: bool = True) -> Iterator[Server]:
    """is_durable: what is committed survives a power cut, as in earnest; without, tests are quicker"""
    folder = Path(tempfile.mkdtemp(prefix="ledger-pg-"))
    running = None
    try:
        running = Server(binaries, folder, is_durable=is_durable)
        yield running
    finally:
        if running is not None:
            running.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> "pwd.struct_passwd | None":
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _as_nobody(command: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    account = _account()
    rights = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={"LC_ALL": "C"}, preexec_fn=_die_with_parent, **rights)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG
