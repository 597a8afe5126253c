"""`trimtab import`: the options, and what is said of what was unpacked."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_PASSED


@click.command("import", short_help="A package as a folder again, checked: what a registry or a colleague gave you.")
@click.argument("path", type=click.Path(path_type=Path))
@option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write, empty or not there yet.")
@common
@click.pass_obj
def import_(state: State, *, path: Path, out: Path, common: Common) -> int:
    """Unpack a package that lies here: a ModelPack or an image in an OCI layout, or a bundle.

    Every blob is held against its digest, the weights and the decision against the lock. What comes out is the folder of the run with its
    weights in it: serve it, verify it, or export it again.

    \b
    skopeo copy docker://registry.example/chat:3 oci:chat
    trimtab import chat --out runs/chat
    trimtab serve runs/chat/deploy.toml
    """
    from trimtab.cli.output import emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.import_ import import_package

    state.resume = "Nothing was written; run the same command again."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        document = import_package(path, out=out, on_event=on_event)
    emit(common, document, _shown(document))
    return EXIT_PASSED


def _shown(document: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    yield Text.assemble((f"{document['format']}  ", "bold green"), (str(document["out"]), "bold"))
    if not document["lock"]:
        yield Text("It holds weights and no lock: nothing was certified of them. `trimtab optimize` takes the folder `packed` in it.")
        return
    decision = "and the decision are" if document["decision"] else "are"
    yield Text(f"The weights {decision} those of its lock, whose verdict is {document['verdict']}.")
    yield Text(f"trimtab serve {Path(document['out']) / document['lock']}")
