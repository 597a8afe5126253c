"""A FakeServer as a process of its own: PORT [--after SECONDS] [--pids FILE] [--delay SECONDS] [--gap SECONDS] [--deaf].

--delay: before the first piece of an answer; --gap: between pieces
--pids: it starts two helpers, one of which leaves its session, and writes all three process ids; --deaf: SIGTERM does nothing to it
"""

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path

from trimtab.testing.fake_server import FakeServer

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("--after", type=float, default=0.0)
parser.add_argument("--delay", type=float, default=0.0)
parser.add_argument("--gap", type=float, default=0.0)
parser.add_argument("--pids", type=Path)
parser.add_argument("--deaf", action="store_true")
options = parser.parse_args()
if options.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(options.after)
if options.pids:
    helpers = [subprocess.Popen(["sleep", "300"], start_new_session=leaves) for leaves in (False, True)]
    options.pids.write_text(" ".join(map(str, (os.getpid(), *(helper.pid for helper in helpers)))))
print("listening", flush=True)
with FakeServer(port=options.port, delay_s=options.delay, gap_s=options.gap):
    while True:
        time.sleep(60)
