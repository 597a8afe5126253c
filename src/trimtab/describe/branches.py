"""Branches of a chat template that depend on what messages SAY (a phrase, an opening, a length), not on their role or order.

Such a branch can be harmless (a reasoning marker is cut out) or a back door (other instructions after a trigger word): it is
shown, not judged. Found by following message contents through the syntax tree; a name once given content stays marked.
"""

from collections.abc import Mapping
from typing import Any

# Parts of a message that say who speaks or which form it has, not what is said.
_STRUCTURAL = frozenset({"role", "tool_calls", "tool_call_id", "name", "type", "tools", "index", "function", "id"})
_SEARCHES = frozenset({"startswith", "endswith", "find", "rfind", "index", "rindex", "count", "__contains__"})
_FORM_TESTS = frozenset({"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "number", "true", "false"})
_KEEP_MESSAGES = frozenset(
    {"first", "last", "list", "reverse", "selectattr", "rejectattr", "select", "reject", "batch", "slice", "sort", "random"}
)
_SIZES = frozenset({"length", "count", "wordcount"})
MAX_SHOWN = 50
NOTHING, MESSAGES, CONTENT = 0, 1, 2


def content_branches(template: str) -> tuple[str, ...]:
    """The conditions, as `line N: condition`, whose outcome depends on message content; () if none or if it does not parse
    (then it does not render either).
    """
    from jinja2 import TemplateError, nodes

    from trimtab.describe.render_child import environment

    lines = template.splitlines()
    try:
        tree = environment("").parse(template)
        finder = _Finder(nodes)
        finder.mark_all(tree)
        places = finder.branches(tree)
    except TemplateError:
        return ()
    except RecursionError:
        return ("the template nests too deep to be searched",)
    shown = []
    for line in sorted(set(places))[:MAX_SHOWN]:
        text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        shown.append(f"line {line}: {text[:160]}{'...' if len(text) > 160 else ''}")
    return tuple(shown)


class _Finder:
    """Marks the names that hold messages or their content, then finds the conditions that look into content."""

    def __init__(self, nodes: Any) -> None:
        self.nodes = nodes
        self.marked = {"messages": MESSAGES}

    def mark_all(self, tree: Any) -> None:
        """Names assigned from, looped over, or passed messages or content; repeated until nothing new is found."""
        nodes = self.nodes
        macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        for _ in range(8):
            before = dict(self.marked)
            for node in tree.find_all((nodes.For, nodes.Assign, nodes.AssignBlock, nodes.Call)):
                if isinstance(node, nodes.For):
                    self.mark(node.target, self.level(node.iter))
                elif isinstance(node, nodes.Assign):
                    self.mark_assigned(node)
                elif isinstance(node, nodes.AssignBlock):
                    self.mark(node.target, CONTENT if any(self.level(part) for part in node.body) else NOTHING)
                else:
                    self.mark_arguments(macros, node)
            if self.marked == before:
                return

    def mark_assigned(self, node: Any) -> None:
        """A plain assignment, or `namespace(name=value)`."""
        call = node.node
        if isinstance(call, self.nodes.Call) and isinstance(node.target, self.nodes.Name):
            for pair in call.kwargs:
                self.put(f"{node.target.name}.{pair.key}", self.level(pair.value))
        self.mark(node.target, self.level(call))

    def mark_arguments(self, macros: Mapping[str, Any], call: Any) -> None:
        """Parameters of a macro that is called with messages or content."""
        macro = macros.get(call.node.name) if isinstance(call.node, self.nodes.Name) else None
        if macro is None:
            return
        named = {parameter.name: parameter for parameter in macro.args}
        pairs = [*zip(macro.args, call.args, strict=False), *((named[pair.key], pair.value) for pair in call.kwargs if pair.key in named)]
        for parameter, argument in pairs:
            self.mark(parameter, self.level(argument))

    def mark(self, target: Any, level: int) -> None:
        if isinstance(target, self.nodes.Name):
            self.put(target.name, level)
        elif isinstance(target, self.nodes.NSRef):
            self.put(f"{target.name}.{target.attr}", level)
        else:
            for part in getattr(target, "items", ()):
                self.mark(part, level)

    def put(self, name: str, level: int) -> None:
        if level > self.marked.get(name, NOTHING):
            self.marked[name] = level

    def level(self, node: Any) -> int:
        """What an expression can carry: NOTHING of the messages, whole MESSAGES, or the CONTENT of some."""
        nodes = self.nodes
        if isinstance(node, nodes.Name):
            return self.marked.get(node.name, NOTHING)
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            return self.level_of_part(node)
        if isinstance(node, (nodes.Compare, nodes.Test, nodes.Not)):
            return NOTHING
        inside = max((self.level(child) for child in node.iter_child_nodes()), default=NOTHING)
        if isinstance(node, nodes.Filter):
            if node.name in _SIZES:
                return NOTHING
            return inside if node.name in _KEEP_MESSAGES else (CONTENT if inside else NOTHING)
        return CONTENT if inside and isinstance(node, nodes.Concat) else inside

    def level_of_part(self, node: Any) -> int:
        nodes = self.nodes
        key = node.attr if isinstance(node, nodes.Getattr) else (node.arg.value if isinstance(node.arg, nodes.Const) else None)
        if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and f"{node.node.name}.{key}" in self.marked:
            return self.marked[f"{node.node.name}.{key}"]
        whole = self.level(node.node)
        if whole == NOTHING or (whole == MESSAGES and key in _STRUCTURAL) or (whole == CONTENT and key == "type"):
            return NOTHING
        return CONTENT if isinstance(key, str) else whole

    def branches(self, tree: Any) -> list[int]:
        """Lines of the conditions that look into content. A condition can also be stored first and tested later."""
        nodes = self.nodes
        tests = [node.test for node in tree.find_all((nodes.If, nodes.CondExpr, nodes.For)) if node.test is not None]
        tests += [node.node for node in tree.find_all(nodes.Assign)]
        tests += [node.iter for node in tree.find_all(nodes.For)]
        return [looking.lineno for test in tests for looking in self.looks(test)]

    def looks(self, test: Any) -> list[Any]:
        """Parts of a condition that compare content with something fixed, measure it, or search in it."""
        nodes = self.nodes
        found = []
        for node in [test, *test.find_all((nodes.Compare, nodes.Call, nodes.Test, nodes.Filter))]:
            if isinstance(node, nodes.Compare):
                sides = [node.expr, *(operand.expr for operand in node.ops)]
                looks = any(self.level(side) == CONTENT or self.measures(side) for side in sides) and any(
                    self.fixed(side) for side in sides
                )
            elif isinstance(node, nodes.Call):
                method = node.node if isinstance(node.node, nodes.Getattr) else None
                looks = method is not None and method.attr in _SEARCHES and self.level(method.node) == CONTENT
            elif isinstance(node, nodes.Test):
                looks = node.name not in _FORM_TESTS and self.level(node.node) == CONTENT
            else:
                looks = isinstance(node, nodes.Filter) and self.selects(node)
            if looks:
                found.append(node)
        return found

    def selects(self, node: Any) -> bool:
        """True for messages selected by what they say: `messages | selectattr("content", "equalto", ...)`."""
        if node.name not in ("selectattr", "rejectattr") or len(node.args) < 2 or node.node is None or not self.level(node.node):
            return False
        return getattr(node.args[0], "value", None) not in _STRUCTURAL

    def measures(self, node: Any) -> bool:
        """True for the length of a content (the number of messages is not content)."""
        return isinstance(node, self.nodes.Filter) and node.name in _SIZES and node.node is not None and self.level(node.node) == CONTENT

    def fixed(self, node: Any) -> bool:
        """True for a value that does not come from messages; nothing, an empty text and 0 only ask whether there is content."""
        if isinstance(node, self.nodes.Const):
            return node.value is not None and node.value != "" and node.value != 0 and not isinstance(node.value, bool)
        return self.level(node) == NOTHING and not self.measures(node)
