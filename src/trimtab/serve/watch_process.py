"""The watch as a process beside the gateway: started again when it dies, and ended with it."""

import asyncio
import logging
import time
from collections.abc import Sequence

from trimtab.core.errors import MissingError
from trimtab.serve.server_process import ServerProcess

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
STEADY_S = 60.0
"""One that has run for so long has earned a quick start again."""

log = logging.getLogger("trimtab.serve")


async def keep_running(command: Sequence[str]) -> None:
    """Run a command until cancelled, and again each time it ends: the sooner it ends, the later. Its death is no fault of the gateway."""
    wait_s = FIRST_WAIT_S
    while True:
        began_s = time.monotonic()
        try:
            process = await ServerProcess.start(command)
        except (MissingError, OSError) as error:
            log.error("the watch cannot be started: %s", error)
        else:
            try:
                while not await process.ended(3600.0):
                    pass
                log.error("the watch has ended and is started again in %g s; serving goes on. %s", wait_s, process.said())
            finally:
                await process.stop()
        if time.monotonic() - began_s >= STEADY_S:
            wait_s = FIRST_WAIT_S
        await asyncio.sleep(wait_s)
        wait_s = min(2.0 * wait_s, LONGEST_WAIT_S)
