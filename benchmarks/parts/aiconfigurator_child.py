"""Runs in AIConfigurator's own environment: arguments of `cli_estimate` as a JSON list on stdin, answers on the last line of stdout."""

import contextlib
import json
import logging
import sys
import time

from aiconfigurator.cli.api import cli_estimate

LIMIT_S = 420

logging.disable(logging.CRITICAL)
began = time.monotonic()
answers = []
for question in json.load(sys.stdin):
    if time.monotonic() - began > LIMIT_S:
        answers.append({"why": "its time was over"})
        continue
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found = cli_estimate(**question)
            answers.append({"ttft_ms": float(found.ttft), "tpot_ms": float(found.tpot)})
        except Exception as error:
            answers.append({"why": f"{type(error).__name__}: {error}"[:200]})
print(json.dumps(answers))
