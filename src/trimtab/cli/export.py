"""`trimtab export`: the options, and what is said of what was written."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_PASSED


@click.command(short_help="What was certified as an artifact, an image, a bundle, a manifest or a card.")
@click.argument("what")
@option("--format", "form", required=True, metavar="NAME", help="What to make; a name that is none lists them all.")
@option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write, empty or not there yet.")
@option("--base", default="", help="What an image stands on: a root file system (.tar), an OCI layout, or an image's name elsewhere.")
@option("--image", default="", help="Reference of the image that manifests name.")
@option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Where the gateway listens.")
@option("--extra", "extras", multiple=True, metavar="NAME", help="Of trimtab, whose packages an image holds too, such as ray.")
@option("--replicas", metavar="N|A..B", default="", help="How many there may be, for formats that hold several.")
@option("--redis", metavar="HOST:PORT", default="", help="Where a Ray head keeps its state, so that a new one can take it up.")
@option(
    "--gateway-class", metavar="NAME", default="", help="Of the Gateway API: for a RayService's upgrades, for an InferencePool's Gateway."
)
@option("--weights-uri", metavar="URI", default="", help="Where KServe finds the weights: hf://, s3://, pvc:// or oci://.")
@option("--ledger", metavar="URL", default="", help="The ledger's address; default that of TRIMTAB_HOME.")
@option("--allow-uncertified", is_flag=True, help="Export a lock whose decision is not pass; the package says so too.")
@common
@click.pass_obj
def export(
    state: State,
    *,
    what: str,
    form: str,
    out: Path,
    base: str,
    image: str,
    port: int,
    extras: tuple[str, ...],
    replicas: str,
    redis: str,
    gateway_class: str,
    weights_uri: str,
    ledger: str,
    allow_uncertified: bool,
    common: Common,
) -> int:
    """Write what was certified in a form that a registry, a cluster, a machine without network or a reader can use.

    WHAT is a release of the ledger, a deploy.toml or the folder of a run. The same input gives the same bytes.

    \b
    trimtab export support-chat@3 --format modelpack --out out/artifact
    trimtab export runs/demo --format image --base root.tar --out out/image
    trimtab export runs/demo --format bundle --out out/bundle
    trimtab export support-chat@3 --format rayservice --replicas 0..8 --image NAME@sha256:... --out out/ray
    """
    from trimtab.cli.output import emit
    from trimtab.cli.progress import show_progress
    from trimtab.flows.export import cluster_wish
    from trimtab.flows.export import export as flow

    cluster = cluster_wish(replicas=replicas, redis=redis, gateway_class=gateway_class, weights_uri=weights_uri)
    state.resume = "Nothing was written; run the same command again."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        document = flow(
            what,
            form=form,
            out=out,
            base=base,
            image=image,
            port=port,
            ledger=ledger,
            cluster=cluster,
            extras=extras,
            allow_uncertified=allow_uncertified,
            offline=common.offline,
            on_event=on_event,
        )
    emit(common, document, _shown(document))
    return EXIT_PASSED


def _shown(document: Mapping[str, Any]) -> Iterable[Any]:
    from rich.text import Text

    size = f"{document['size_bytes'] / 1e6:,.1f} MB in {document['n_files']} files"
    yield Text.assemble((f"{document['format']}  ", "bold green"), (f"{document['out']}, {size}", "bold"))
    if document["verdict"] != "pass":
        yield Text(f"Its decision is {document['verdict']}, not pass; this was allowed.", style="yellow")
    if document["digest"]:
        yield Text(document["digest"], style="dim")
    if document["next"]:
        yield Text(document["next"])
