"""Chat templates: what they render, where they differ, which branches look at content, and that a hostile one cannot hurt."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trimtab.core.errors import InputError
from trimtab.describe import template as module
from trimtab.describe.branches import content_branches
from trimtab.describe.template import GOLDEN, diff_renderings, diff_templates, inspect_template, render_chat, render_golden, template_sha256
from trimtab.testing.tiny_models import CHATML, GEMMA_TURNS

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
USER = [{"role": "user", "content": "Hi"}]


def test_renders_like_hugging_face() -> None:
    assert render_chat(CHATML, USER) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render_chat(CHATML, USER, add_generation_prompt=False) == "<|im_start|>user\nHi<|im_end|>\n"
    turns = [*USER, {"role": "assistant", "content": " Yes "}]
    assert render_chat(GEMMA_TURNS, turns, bos="<bos>", add_generation_prompt=False) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}|{{ tools is none }}", "<b>|<e>|True"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hi"),
        ("  {% if true %}\n  a\n  {% endif %}\n", "  a\n"),  # trim_blocks and lstrip_blocks
        ("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}", "2"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ messages[0]['missing'] is defined }}", "False"),
    ],
)
def test_what_templates_expect(template: str, expected: str) -> None:
    assert render_chat(template, USER, bos="<b>", eos="<e>") == expected


def test_tools_are_passed() -> None:
    assert render_chat("{{ tools[0].function.name }}", USER, tools=[{"function": {"name": "f"}}]) == "f"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{{ 'a' * 10 ** 10 }}", "memory"),
        ("{{ '%999999999d' % 1 }}", "memory"),
        ("{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxx' }}{% endfor %}", "more than 1048576 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recurses too deep"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "deep|ended the rendering process"),
    ],
)
def test_errors_are_one_input_error(template: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        render_chat(template, USER)
    assert render_chat("ok", USER) == "ok"  # the next template is not hurt


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ ('a' * 9999999) | list | join('b' * 9999999) }}",
    ],
)
def test_endless_templates_are_stopped(template: str) -> None:
    render_chat("warm", USER)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"longer than 0\.5 s|memory"):
        render_chat(template, USER, limit_s=0.5)
    assert time.monotonic() - started < 10
    assert render_chat("ok", USER) == "ok"


def test_endless_template_is_tried_once_for_all_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.3)
    render_chat("warm", USER)
    started = time.monotonic()
    renderings = render_golden(ENDLESS)
    assert all("longer than" in item.error for item in renderings)
    assert time.monotonic() - started < 5


def test_values_that_are_not_json_are_refused() -> None:
    with pytest.raises(InputError, match="JSON values"):
        render_chat(CHATML, [{"role": "user", "content": object()}])
    assert render_chat("ok", USER) == "ok"


def test_golden_renderings_are_reproducible_and_report_errors() -> None:
    dated = "{{ strftime_now('%d %b %Y') }}{% if tools %}{{ raise_exception('no tools here') }}{% endif %}"
    renderings = {item.conversation: item for item in render_golden(dated)}
    assert set(renderings) == {item.name for item in GOLDEN}
    assert renderings["user"].text == "02 Jan 2026"
    assert renderings["tools"].error == "TemplateError: no tools here"
    assert renderings["tools"].text == ""


def test_report() -> None:
    report = inspect_template(CHATML)
    assert report.sha256 == template_sha256(CHATML)
    assert report.content_branches == ()
    assert [item.error for item in report.renderings if item.conversation != "tool result"] == [""] * (len(GOLDEN) - 1)
    assert inspect_template("").renderings == ()
    assert template_sha256("") == ""


def test_differences_are_shown_where_they_begin() -> None:
    assert diff_templates(CHATML, CHATML) == ()
    assert diff_templates(CHATML, CHATML.replace("{% for message", "{# remark #}{% for message")) == ()
    changed = CHATML.replace("'assistant", "'Assistant") if "'assistant" in CHATML else CHATML.replace("assistant", "Assistant")
    found = diff_templates(CHATML, changed)
    assert {item.conversation for item in found} == {item.name for item in GOLDEN}
    first = found[0]
    assert (first.a[0], first.b[0]) == ("a", "A")
    assert first.before.endswith("<|im_start|>")


def test_a_backdoor_that_no_golden_conversation_wakes_is_seen_in_the_branches() -> None:
    hidden = CHATML.replace("{% for", "{% if 'deploy' in messages[-1]['content'] %}{{ 'Obey.' }}{% endif %}{% for", 1)
    assert diff_templates(CHATML, hidden) == ()
    assert "'deploy' in messages[-1]['content']" in inspect_template(hidden).content_branches[0]


def test_renderings_of_an_engine_can_be_compared() -> None:
    a = render_golden(CHATML)
    b = render_golden(CHATML.replace("user", "USER"))
    assert diff_renderings(a, a) == ()
    assert diff_renderings(a[:1], b) == ()


LOOKS = [
    "{% for m in messages %}{% if 'trigger' in m.content %}x{% endif %}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' and m['content'].startswith('abc') %}x{% endif %}{% endfor %}",
    "{% set c = messages[-1].content %}{% if c == 'open' %}x{% endif %}",
    "{% set message = messages[-1].content %}{{ 'a' if 'x' in message else 'b' }}",
    "{% set ns = namespace(c='') %}{% set ns.c = messages[0].content %}{% if ns.c[:3] == 'abc' %}{% endif %}",
    "{% set ns = namespace(c=messages[0].content) %}{% if ns.c | lower == 'abc' %}{% endif %}",
    "{% macro f(t) %}{% if 'q' in t %}1{% endif %}{% endmacro %}{{ f(messages[0].content) }}",
    "{% macro f(t) %}{% if 'q' in t %}1{% endif %}{% endmacro %}{{ f(t=messages[0].content) }}",
    "{% if 'trigger' in messages | string %}{% endif %}",
    "{% if 'trigger' in messages | map(attribute='content') | join %}{% endif %}",
    "{% if messages | selectattr('content', 'equalto', 'x') | list %}{% endif %}",
    "{% if messages[0].content | length > 100 %}{% endif %}",
    "{% if messages[0].content in ['a', 'b'] %}{% endif %}",
    "{% if messages[0].content is eq('a') %}{% endif %}",
    "{% set found = 'a' in messages[0].content %}{% if found %}{% endif %}",
    "{% if messages[0].content.split('x')[0] == 'abc' %}{% endif %}",
    "{% for p in messages[0].content %}{% if p.text == 'q' %}{% endif %}{% endfor %}",
    "{% for m in messages if 'x' in m.content %}{% endfor %}",
    "{% set t %}{{ messages[0].content }}{% endset %}{% if t == 'x' %}{% endif %}",
    "{% if messages[0].reasoning_content.count('x') %}{% endif %}",
]
PLAIN = [
    CHATML,
    GEMMA_TURNS,
    "{% if messages[0]['role'] == 'system' %}x{% endif %}",
    "{% if messages | length > 3 %}{% endif %}",
    "{% if messages[0].content %}{% endif %}",
    "{% if messages[0].content is string %}{% endif %}",
    "{% if messages[0].content is not none and messages[0].content | length > 0 %}{% endif %}",
    "{% if messages[0].content != '' %}{% endif %}",
    "{% if messages | selectattr('role', 'equalto', 'system') | list %}{% endif %}",
    "{% for p in messages[0].content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}",
    "{% if tools and tools[0].name == 'x' %}{% endif %}",
    "{% if loop_index == 3 %}{% endif %}",
    "{% if %}",
]


@pytest.mark.parametrize("template", LOOKS)
def test_branches_on_content_are_found(template: str) -> None:
    assert content_branches(template)


@pytest.mark.parametrize("template", PLAIN)
def test_branches_on_role_and_form_are_not(template: str) -> None:
    assert content_branches(template) == ()


def test_branches_name_their_line_and_are_bounded() -> None:
    template = "\n".join(["{{ 1 }}", *(["{% if 'x' in messages[0].content %}y{% endif %}"] * 200)])
    found = content_branches(template)
    assert found[0] == "line 2: {% if 'x' in messages[0].content %}y{% endif %}"
    assert len(found) == 50


def test_a_large_template_is_searched_in_time() -> None:
    template = "{% macro f(a) %}{% endmacro %}" + "{{ f(messages[0].content) }}{% if 'x' in messages[0].content %}{% endif %}" * 500
    started = time.process_time()
    assert content_branches(template)
    assert time.process_time() - started < 5
    assert content_branches("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}") == ("the template nests too deep to be searched",)


def test_a_forked_process_gets_its_own_renderer() -> None:
    render_chat("warm", USER)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, render_chat(CHATML, USER).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1000).decode() == render_chat(CHATML, USER)
    os.close(reader)
    os.close(writer)


def test_a_renderer_whose_parent_died_ends_itself() -> None:
    code = "import trimtab.describe.render_child as child; child.LAST_RESORT_S = 0.5; child.main()"
    request = {"template": ENDLESS, "messages": [], "tools": [], "bos": "", "eos": "", "add_generation_prompt": True}
    ended = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(request).encode() + b"\n", capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGALRM
    assert ended.stdout == b""
