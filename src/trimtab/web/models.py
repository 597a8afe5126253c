"""What models are made of and what their tokens cost, and answers looked at closely."""

import shlex

from starlette.responses import Response

from trimtab.core.errors import InputError, TrimtabError
from trimtab.record.closely import closely_page
from trimtab.record.run import read_run
from trimtab.web.models_view import Asked, closely_kept, described, model_view, read_closely, sources_of
from trimtab.web.pages import EVERY_ROLE, Page, Visit, render
from trimtab.web.paging import asked, asked_number, paging
from trimtab.web.runs_view import runs_by_key


def model_list(visit: Visit) -> Response:
    runs = _asked_of(visit)
    sources = sources_of(runs)
    command = _command(asked(visit, "model"), asked(visit, "beside"), asked(visit, "prompt"), asked(visit, "answer"))
    wanted = {name: asked(visit, name) for name in ("model", "beside", "prompt", "answer")}
    kept = closely_kept(visit.desk.runs, [one.path for one in runs])
    return render(visit, "models.html", sources=sources, closely=kept, command=command, wanted=wanted)


def one_model(visit: Visit) -> Response:
    key = visit.request.path_params["model"]
    source = next((one for one in sources_of(_asked_of(visit)) if one.key == key), None)
    if source is None:
        raise InputError("No run in the folders of runs was about such a model.")
    why, found, pages = "", None, None
    try:
        found = model_view(described(source.spec), asked_number(visit, "page"))
        pages = paging(visit, found.page, found.n_pages)
    except TrimtabError as error:
        why = str(error)
    return render(visit, "model.html", source=source, found=found, why=why, paging=pages)


def one_closely(visit: Visit) -> Response:
    runs = _asked_of(visit)
    key = visit.request.path_params["answer"]
    one = next((one for one in closely_kept(visit.desk.runs, [one.path for one in runs]) if one.key == key), None)
    document = read_closely(one.path) if one else None
    if document is None:
        raise InputError("That answer is not kept any more; the page of models lists those that are.")
    return render(visit, "closely.html", page=closely_page(document))


def _asked_of(visit: Visit) -> list[Asked]:
    """What every run was asked, newest first; of thousands of runs, nothing but run.json is read."""
    found = []
    for key, path in runs_by_key(visit.desk.runs).items():
        try:
            head = read_run(path)
            found.append(Asked(key=key, path=path, inputs=dict(head["inputs"]), started=str(head["started"])))
        except (TrimtabError, KeyError, TypeError, ValueError):
            continue  # the list of runs tells its reason
    return sorted(found, key=lambda one: one.started, reverse=True)


def _command(model: str, beside: str, prompt: str, answer: str) -> str:
    """What to type; engines are not loaded in the process of the page."""
    if not model or not prompt:
        return ""
    said = ["--answer", answer] if answer else []
    if beside:
        return shlex.join(["trimtab", "compare", model, beside, "--on", prompt, *said, "--out", "runs/beside"])
    return shlex.join(["trimtab", "evaluate", model, "--why", prompt, *said, "--out", "runs/why"])


ROUTES = (
    Page(path="/models", name="models", roles=EVERY_ROLE, handler=model_list, nav="Models"),
    Page(path="/models/{model}", name="model", roles=EVERY_ROLE, handler=one_model),
    Page(path="/answers/{answer}", name="closely", roles=EVERY_ROLE, handler=one_closely),
)
