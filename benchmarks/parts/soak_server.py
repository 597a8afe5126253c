"""A server with the OpenAI API and no model, as a process of its own, that keeps nothing of what it is asked: python soak_server.py PORT"""

import collections
import sys
import time

from trimtab.testing.fake_server import FakeServer

server = FakeServer(port=int(sys.argv[1]), gap_s=0.002)
server.requests = collections.deque(maxlen=1)  # type: ignore[assignment]  # a list of all requests would grow
with server:
    while True:
        time.sleep(60)
