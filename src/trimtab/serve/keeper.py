"""Runs one command and lets nothing of it outlive whoever started it: `python -I -S keeper.py COMMAND ARGUMENT...`.

It reads its standard input, which its parent holds open and never writes to. At the end of it, which comes with the parent's death too,
however that was, every process that the command started is killed, those included that left its group. It ends as the command ends.

A script of its own, standard library only, so that it costs a few milliseconds and a few MiB. Linux has all of it; elsewhere the process
group is killed.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CANNOT_START = 127
SIGNALLED = 128
"""As shells do: a command that a signal ended gives this plus the signal's number."""


def prctl(option: int, value: int) -> None:
    """Ask the kernel, where it is Linux's."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def start(command: list[str]) -> int:
    """The command as a child that dies with this process; its process id."""
    mother = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != mother:
            os._exit(CANNOT_START)  # the mother died before it could be said
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.set_wakeup_fd(-1)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(CANNOT_START)


def ended(child: int) -> int | None:
    """How the command ended, as os.waitpid tells it, or None; orphans of it are laid to rest on the way."""
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if found == child:
            return status
        if found == 0:
            return None


def kill_all() -> None:
    """Kill the group, then every descendant: those who left it have become children of this process, or will."""
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)
    own = os.getpid()
    for _ in range(1000):
        for child in children(own):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break


def children(pid: int) -> list[int]:
    """Descendants of a process, its children first."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
        except OSError:
            continue
    return found + [deeper for child in found for deeper in children(child)]


def main() -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the group: it is for the command
    child = start(sys.argv[1:])
    status = None
    while status is None:
        ready, _, _ = select.select([0, told], [], [])
        if told in ready:
            os.read(told, 64)
            status = ended(child)
        elif not os.read(0, 64):
            break
    kill_all()
    if status is None:
        os._exit(0)
    if os.WIFSIGNALED(status):
        os._exit(SIGNALLED + os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
