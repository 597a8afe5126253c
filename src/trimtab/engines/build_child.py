"""`python -m trimtab.engines.build_child ENGINE`: its build in this interpreter, as one JSON line; see interpreters.py."""

import json
import sys

from trimtab.core.errors import MissingError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.engines.interpreters import PROTOCOL_VERSION
from trimtab.engines.registry import engine_here


def told(engine: str) -> dict[str, object]:
    """`build`, or `missing` with its `fix`."""
    try:
        return {"protocol": PROTOCOL_VERSION, "build": to_plain(engine_here(engine).build())}
    except MissingError as error:
        return {"protocol": PROTOCOL_VERSION, "missing": str(error).partition(" Fix: ")[0], "fix": error.fix}
    except TrimtabError as error:
        return {"protocol": PROTOCOL_VERSION, "missing": str(error), "fix": "use one version of trimtab in both environments"}


if __name__ == "__main__":
    print(json.dumps(told(sys.argv[1])))
