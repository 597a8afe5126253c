"""Branches of a chat template that depend on what messages SAY (a phrase, an opening, a length), not on their role or order.

Such a branch can be harmless (a reasoning marker is cut out) or a back door (other instructions after a trigger word): it is
shown, not judged. Found by following message contents through the syntax tree; a name once given content stays marked.
"""

from typing import Any

# Parts of a message that say who speaks or which form it has, not what is said.
_STRUCTURAL = frozenset({"role", "tool_calls", "tool_call_id", "name", "type", "tools", "index", "function", "id"})
_LOOKS = frozenset(
    {"startswith", "endswith", "find", "rfind", "index", "rindex", "count", "__contains__", "split", "partition", "rpartition"}
)
_FORM_TESTS = frozenset({"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "number", "true", "false"})
MAX_SHOWN = 50


def content_branches(template: str) -> tuple[str, ...]:
    """The conditions, as `line N: condition`, whose outcome depends on message content; () if none or if it does not parse."""
    from jinja2 import TemplateError, nodes

    from trimtab.describe.render_child import environment

    lines = template.splitlines()
    try:
        tree = environment("").parse(template)
        finder = _Finder(nodes)
        finder.mark_all(tree)
        places = finder.branches(tree)
    except (TemplateError, RecursionError):
        return ()
    shown = []
    for line in sorted(set(places))[:MAX_SHOWN]:
        text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        shown.append(f"line {line}: {text[:160]}{'...' if len(text) > 160 else ''}")
    return tuple(shown)


class _Finder:
    """Marks the names that hold messages or their content, then finds the conditions that look into them."""

    def __init__(self, nodes: Any) -> None:
        self.nodes = nodes
        self.marked = {"messages"}

    def mark_all(self, tree: Any) -> None:
        """Names assigned from, looped over, or passed content; repeated until nothing new is found."""
        nodes = self.nodes
        for _ in range(8):
            before = len(self.marked)
            for node in tree.find_all((nodes.For, nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.Call)):
                if isinstance(node, nodes.For) and self.holds(node.iter):
                    self.mark(node.target)
                elif isinstance(node, nodes.Assign) and self.holds(node.node):
                    self.mark(node.target)
                elif isinstance(node, nodes.AssignBlock) and any(self.holds(part) for part in node.body):
                    self.mark(node.target)
                elif isinstance(node, nodes.Call):
                    self.mark_arguments(tree, node)
            if len(self.marked) == before:
                return

    def mark_arguments(self, tree: Any, call: Any) -> None:
        """Parameters of a macro that is called with content."""
        if not isinstance(call.node, self.nodes.Name):
            return
        for macro in tree.find_all(self.nodes.Macro):
            if macro.name == call.node.name:
                for parameter, argument in zip(macro.args, call.args, strict=False):
                    if self.holds(argument):
                        self.mark(parameter)

    def mark(self, target: Any) -> None:
        if isinstance(target, self.nodes.Name):
            self.marked.add(target.name)
        elif isinstance(target, self.nodes.NSRef):
            self.marked.add(f"{target.name}.{target.attr}")
        else:
            for part in getattr(target, "items", ()):
                self.mark(part)

    def holds(self, node: Any) -> bool:
        """True if the value of an expression can carry message content."""
        nodes = self.nodes
        if isinstance(node, nodes.Name):
            return node.name in self.marked
        if isinstance(node, nodes.Getattr):
            owner = f"{node.node.name}.{node.attr}" if isinstance(node.node, nodes.Name) else ""
            return owner in self.marked or (node.attr not in _STRUCTURAL and self.holds(node.node))
        if isinstance(node, nodes.Getitem):
            key = node.arg.value if isinstance(node.arg, nodes.Const) else None
            return key not in _STRUCTURAL and self.holds(node.node)
        if isinstance(node, (nodes.Compare, nodes.Test, nodes.Not)):
            return False
        if isinstance(node, nodes.Filter) and node.name in ("length", "count"):
            return False
        return any(self.holds(child) for child in node.iter_child_nodes())

    def branches(self, tree: Any) -> list[int]:
        """Lines of the conditions that look into content."""
        nodes = self.nodes
        tests = [node.test for node in tree.find_all((nodes.If, nodes.CondExpr, nodes.For)) if node.test is not None]
        # A condition can also be stored first and tested later.
        tests += [node.node for node in tree.find_all(nodes.Assign)]
        return [looking.lineno for test in tests for looking in self.looks(test)]

    def looks(self, test: Any) -> list[Any]:
        """Parts of a condition that compare content with something fixed, measure it, or search in it."""
        nodes = self.nodes
        found = []
        for node in [test, *test.find_all((nodes.Compare, nodes.Call, nodes.Test))]:
            if isinstance(node, nodes.Compare):
                sides = [node.expr, *(operand.expr for operand in node.ops)]
                if any(self.content(side) or self.measures(side) for side in sides) and any(self.fixed(side) for side in sides):
                    found.append(node)
            elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
                if node.node.attr in _LOOKS - {"split", "partition", "rpartition", "index"} and self.content(node.node.node):
                    found.append(node)
            elif isinstance(node, nodes.Test) and node.name not in _FORM_TESTS and self.content(node.node):
                found.append(node)
        return found

    def content(self, node: Any) -> bool:
        """Like `holds`, but a whole message or list of messages is not yet content unless turned into text."""
        nodes = self.nodes
        if isinstance(node, nodes.Name) and node.name in ("messages", "message", "loop_messages", "msg", "m"):
            return False
        return self.holds(node)

    def measures(self, node: Any) -> bool:
        """True for the length of a content (the number of messages is not content)."""
        nodes = self.nodes
        return isinstance(node, nodes.Filter) and node.name in ("length", "count") and node.node is not None and self._inside(node.node)

    def _inside(self, node: Any) -> bool:
        if isinstance(node, (self.nodes.Getattr, self.nodes.Getitem)):
            key = node.attr if isinstance(node, self.nodes.Getattr) else getattr(node.arg, "value", None)
            return isinstance(key, str) and self.holds(node)
        return isinstance(node, self.nodes.Name) and node.name in self.marked and node.name in ("content", "text")

    def fixed(self, node: Any) -> bool:
        """True for a value written in the template (a non-empty text, a number, a list of them) or computed without messages."""
        nodes = self.nodes
        if isinstance(node, nodes.Const):
            return node.value is not None and node.value != "" and not isinstance(node.value, bool)
        return not self.holds(node) and not isinstance(node, nodes.Filter)
