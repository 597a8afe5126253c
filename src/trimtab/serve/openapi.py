"""The OpenAPI document of what clients can ask: request bodies as they are checked, answers as they are made."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from trimtab.serve.bodies import Chat, Completion, Embedding
from trimtab.serve.feedback import Feedback, Outcome
from trimtab.serve.response_bodies import Item, Response

_POSTS = {
    "/v1/chat/completions": ("createChatCompletion", "Answer a conversation.", Chat, "ChatCompletion", "ChatCompletionChunk"),
    "/v1/completions": ("createCompletion", "Continue a text.", Completion, "TextCompletion", "TextCompletion"),
    "/v1/responses": ("createResponse", "Answer, in items. Nothing is kept between requests.", Response, "ResponseObject", "ResponseEvent"),
    "/v1/embeddings": ("createEmbedding", "Vectors of texts, where the model gives them.", Embedding, "EmbeddingList", ""),
}
_TOLD = {
    "/v1/feedback": ("createFeedback", "Tell what somebody thought of an answer: thumbs, edited, or a name of yours.", Feedback),
    "/v1/outcomes": ("createOutcome", "Tell what came of an answer, however late.", Outcome),
}
_REFUSALS = {
    "400": "A field is wrong, cannot be honoured, or the prompt is too long; or a guard blocked the text. The same request never succeeds.",
    "401": "The key is missing or not valid.",
    "403": "The key may not do this.",
    "404": "There is no such model or path.",
    "408": "The body did not come in time.",
    "409": "The request is too old for it.",
    "413": "The body is too large.",
    "429": "Too many requests or tokens for this key, or a full queue; `Retry-After` says when to come again.",
    "500": "The server met an error of its own.",
    "502": "The model stopped while it answered.",
    "503": "No replica could take the request in time; `Retry-After` says when to come again.",
    "504": "The request took longer than the server allows.",
}


def _object(required: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(more or {})}, "required": list(required)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: dict[str, Any] = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_ANY: dict[str, Any] = {}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}


def _answers() -> dict[str, Any]:
    """Schemas of what is answered."""
    head = {"id": _TEXT, "created": _WHOLE, "model": _TEXT}
    usage = {"anyOf": [_ref("Usage"), {"type": "null"}]}
    error = _object({"message": _TEXT, "type": _TEXT, "param": _MAYBE_TEXT, "code": _MAYBE_TEXT})
    message = _object({"role": {"const": "assistant"}}, {"content": _MAYBE_TEXT, "reasoning_content": _TEXT, "tool_calls": _array(_ANY)})
    finish = {"finish_reason": {"enum": ["stop", "length", "tool_calls", "content_filter", None]}}
    choice = {"index": _WHOLE, **finish}
    vector = _object({"object": {"const": "embedding"}, "index": _WHOLE, "embedding": {"anyOf": [_array({"type": "number"}), _TEXT]}})
    row = {"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT}
    return {
        "Error": _object({"error": error}),
        "Usage": _object({"prompt_tokens": _WHOLE, "completion_tokens": _WHOLE, "total_tokens": _WHOLE}),
        "ChatCompletion": _object(
            {**head, "object": {"const": "chat.completion"}, "choices": _array(_object({**choice, "message": message}))}, {"usage": usage}
        ),
        "ChatCompletionChunk": _object(
            {**head, "object": {"const": "chat.completion.chunk"}, "choices": _array(_object({**choice, "delta": _ANY}))}, {"usage": usage}
        ),
        "TextCompletion": _object(
            {**head, "object": {"const": "text_completion"}, "choices": _array(_object({**choice, "text": _TEXT}))}, {"usage": usage}
        ),
        "ResponseObject": _object(
            {"id": _TEXT, "object": {"const": "response"}, "status": _TEXT, "model": _TEXT, "output": _array(_ANY)}, {"usage": _ANY}
        ),
        "ResponseEvent": _object({"type": _TEXT, "sequence_number": _WHOLE}),
        "EmbeddingList": _object({"object": {"const": "list"}, "model": _TEXT, "data": _array(vector)}, {"usage": _ANY}),
        "Told": _object({"object": {"enum": ["feedback", "outcome"]}, "request_id": _TEXT, "name": _TEXT, "counted": {"type": "boolean"}}),
        "Model": _object(row, {"state": _TEXT, "alias_of": _MAYBE_TEXT, "parent": _MAYBE_TEXT}),
        "ModelList": _object({"object": {"const": "list"}, "data": _array(_ref("Model"))}),
    }


def _answer(what: str, schema: str, events: str = "") -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema)}}
    if events:
        content["text/event-stream"] = {"schema": _ref(events)}
    return {"description": what, "content": content}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: _answer(_REFUSALS[status], "Error") for status in statuses or _REFUSALS}


@cache
def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1, as JSON types. One document for every site: which models there are is told by /v1/models."""
    _, components = msgspec.json.schema_components(
        [Chat, Completion, Response, Embedding, Item, Feedback, Outcome], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Any] = {}
    for path, (name, what, body, answer, events) in _POSTS.items():
        asked = {"required": True, "content": {"application/json": {"schema": _ref(body.__name__)}}}
        answers = {"200": _answer("The answer; with `stream` true its events.", answer, events), **_refusals(*_REFUSALS.keys() - {"409"})}
        paths[path] = {"post": {"operationId": name, "summary": what, "requestBody": asked, "responses": answers}}
    for path, (name, what, told) in _TOLD.items():
        asked = {"required": True, "content": {"application/json": {"schema": _ref(told.__name__)}}}
        answers = {
            "200": _answer("It was taken; `counted` is false if the same name of the request was told before.", "Told"),
            **_refusals("400", "401", "404", "408", "409", "413", "429", "500", "503"),
        }
        paths[path] = {"post": {"operationId": name, "summary": what, "requestBody": asked, "responses": answers}}
    models = {"200": _answer("All models, with their states.", "ModelList"), **_refusals("401", "403")}
    paths["/v1/models"] = {"get": {"operationId": "listModels", "summary": "What is served. Wakes no model.", "responses": models}}
    model = {"200": _answer("One model, with its state.", "Model"), **_refusals("401", "403", "404")}
    parameter = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    paths["/v1/models/{model}"] = {
        "get": {"operationId": "retrieveModel", "summary": "One model.", "parameters": [parameter], "responses": model}
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "trimtab serve", "version": _version(), "description": "What of OpenAI's API is served, and what is refused."},
        "paths": paths,
        "components": {
            "schemas": {**components, **_answers()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _version() -> str:
    try:
        return version("trimtab")
    except PackageNotFoundError:
        return "0"
