"""Schemas as grammars: what is not followed is refused by name, and what is followed holds and never breaks the requests beside it."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Engine, GenerateRequest
from trimtab.engines.openvino_json import grammar_of
from trimtab.testing.engine_contract import run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

NODE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"]}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ('{"type": "object"', "no JSON"),
        ("[]", "no object"),
        ('{"const": NaN}', "no JSON"),
        ('{"type": "no-such-type"}', "no type"),
        ({"type": "string", "pattern": "a+"}, '"pattern" is not followed'),
        ({"type": "string", "format": "date"}, '"format" is not followed'),
        ({"type": "string", "maxLength": 1000}, "from 0 to 256"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "maxItems is below minItems"),
        ({"type": "integer", "minimum": 5}, "minimum 0 is followed"),
        ({"type": "integer", "minimum": False}, "minimum 0 is followed"),
        ({"oneOf": [{"type": "null"}]}, '"oneOf" is not followed'),
        ({"anyOf": []}, "anyOf is no list"),
        ({"anyOf": [{"type": "null"}], "type": "object"}, '"type" beside anyOf'),
        ({"$ref": "http://localhost/schema"}, "names nothing"),
        ({"$ref": ["#"]}, "names nothing"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#"}]}}}, "leads back to itself"),
        ({"enum": []}, "no list of values"),
        ({"enum": [1, "a"], "type": "string"}, "another type"),
        ({"properties": {"a": {}}, "required": ["b"]}, '"b", which is not among'),
        ({"properties": {"a": False}}, "false stands where"),
        (r'{"const": "\ud800"}', "half a character"),
        (r'{"properties": {"\udfff": {}}}', "half a character"),
        (r'{"required": ["\udfff"]}', "which is not among"),
        ({"anyOf": [{"type": "null"}] * 300}, "more than 200 parts"),
        ({"properties": {f"p{n}": {"type": "string", "maxLength": 250} for n in range(40)}}, "too many to be followed"),
        ('{"items": ' * 900 + "{}" + "}" * 900, "more than 200 parts"),
        ('{"items": ' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(schema: Any, says: str) -> None:
    with pytest.raises(EngineRefused, match=r"\(json_schema: ") as caught:
        grammar_of(schema if isinstance(schema, str) else json.dumps(schema))
    assert says in str(caught.value)


HELD: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "object", "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
    {"properties": {"a": {"type": "boolean"}, "b": {"type": ["string", "null"], "maxLength": 3}, "c": {"type": "null"}}, "required": ["b"]},
    {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
    {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "maxItems": 0},
    {"items": {"enum": [1, 2, 3]}, "maxItems": 3},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "maxLength": 0},
    {"type": "integer", "minimum": -3, "maximum": 4},
    {"type": "number", "minimum": 0},
    {"enum": [None, True, -1.5e300, "", {"a": [1, {}]}]},
    {"const": 'a "quoted" \\ text\n\t\u0000\u2028, déjà vu 🙂 \U00040000 \\U0041 ]{0,1}|'},
    {"const": {'né"\\': ["]", "| root ::="]}},
    {"properties": {'the "name" \\ é🙂': {"const": 1}}, "required": ['the "name" \\ é🙂'], "title": "T", "description": "D"},
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    {"type": "object", "properties": {"again": {"$ref": "#"}, "end": {"const": "x"}}, "required": ["end"]},
    {"allOf": [{"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"const": "none"}]}]},
    json.loads('{"type": "array", "minItems": 1, "maxItems": 1, "items": ' * 180 + '{"const": 1}' + "}" * 180),
    {},
]


@pytest.fixture(scope="module", params=["none", "prompt-lookup"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    pytest.importorskip("openvino_genai")
    from trimtab.engines.openvino import OpenVinoEngine

    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", architecture="qwen2", weight_type="F16")
    snapshot = snapshot_of(path)
    engine = OpenVinoEngine(snapshot, Settings(context_tokens=512, slots=8, speculation=request.param))
    engine.load("serve")
    yield engine
    engine.close()


@pytest.mark.model
def test_what_is_followed_holds_and_breaks_nothing(engine: Engine) -> None:
    prompt = tuple(engine.tokenize("the small boat", parse_special=False))
    requests = [
        GenerateRequest(request_id=place, prompt_ids=prompt, max_tokens=200, temperature=1.0, seed=place, json_schema=json.dumps(schema))
        for place, schema in enumerate(HELD)
    ]
    events = run_all(engine, [*requests, GenerateRequest(request_id=99, prompt_ids=prompt, max_tokens=5, ignore_end=True)])
    assert len(tokens_of(events[99])) == 5
    n_whole = 0
    for place, schema in enumerate(HELD):
        assert events[place][-1].done in ("stop", "length"), events[place][-1].error
        text = engine.detokenize(tokens_of(events[place]))
        if events[place][-1].done == "stop":
            jsonschema_rs.validate(schema, json.loads(text))
            n_whole += 1
    assert n_whole > len(HELD) * 2 // 3


@pytest.mark.model
def test_a_schema_has_an_end(engine: Engine) -> None:
    prompt = tuple(engine.tokenize("the small boat", parse_special=False))
    with pytest.raises(EngineRefused, match="cannot go on past its end"):
        engine.submit(GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=5, ignore_end=True, json_schema="{}"))


@pytest.mark.model
def test_a_step_that_fails_ends_what_runs_and_nothing_else(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = tuple(engine.tokenize("the small boat", parse_special=False))
    monkeypatch.setattr("trimtab.engines.openvino_serve.grammar_of", lambda schema: "root ::= (")
    broken = GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=5, json_schema="{}")
    events = run_all(engine, [broken, GenerateRequest(request_id=2, prompt_ids=prompt, max_tokens=50, ignore_end=True)])
    assert [events[number][-1].done for number in (1, 2)] == ["error", "error"]
    later = run_all(engine, [GenerateRequest(request_id=3, prompt_ids=prompt, max_tokens=5, ignore_end=True)])[3]
    assert len(tokens_of(later)) == 5
