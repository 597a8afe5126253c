"""Python's compiled form of a source file, the same bytes each time: a read-only root cannot keep what each start would compile anew.

Source: PEP 552 (deterministic pycs). Version 2 of marshal has no back references, which depend on how many hold an object by chance.
"""

import importlib.util
import marshal
import sys
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath

from trimtab.package.oci import Member

_UNCHECKED = (1).to_bytes(4, "little")


def compiled_members(name: str, source: bytes) -> Iterator[Member]:
    """The cache file that belongs beside a source file; nothing for one that does not compile."""
    place = PurePosixPath(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, f"/{name}", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
    cache = place.parent / "__pycache__" / f"{place.stem}.{sys.implementation.cache_tag}.pyc"
    yield Member(name=str(cache), content=head + marshal.dumps(code, 2))
