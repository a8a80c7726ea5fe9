"""Composes YAML text into nodes. Syntax errors get a position and a plain explanation."""

from typing import Any

import yaml
from yaml.nodes import Node, ScalarNode

MAX_NODES = 50_000
"""How many values a document may have; a thousand routes have about 20,000."""

MAX_DEPTH = 40
"""How deep mappings and lists may nest; the deepest key of a real configuration is at level seven."""

_HINTS = {  # by a substring of PyYAML's message
    "more than": "what a gateway.yaml says",
    "'\\t'": "spaces, as YAML does not indent with tabs",
    "mapping values are not allowed": "quotes around text with `: `, or the same indent as the keys around",
    "end of stream": "the closing quote or bracket of what was opened",
    "alias": "an anchor of that name, such as &name, further up",
    "another document": "one document, without `---` within it",
}
_GENERAL_HINT = "quotes around text with special characters, and one indent for all keys of a mapping"


class NotYaml(Exception):
    """The text is not a YAML document. `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, message: str, hint: str) -> None:
        super().__init__(line, column, message, hint)
        self.line = line
        self.column = column
        self.message = message
        self.hint = hint


class Composer(yaml.SafeLoader):
    """Composes nodes like SafeLoader, within limits, and treats scalars with a tag as quoted."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose the next node; refuse what is too deep for PyYAML's recursion, or so large that it takes minutes."""
        if self._depth == MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep")
        if self._nodes == MAX_NODES:
            raise self._error(f"more than {MAX_NODES} values")
        self._depth += 1
        self._nodes += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        """Compose the next scalar. A tag fixes its type, like quotes, so it must not be guessed again."""
        event = self._next_event()
        node = super().compose_scalar_node(anchor)
        if node.style is None and not event.implicit[0]:
            node.style = "'"
        return node

    def _next_event(self) -> Any:
        return self.peek_event()  # type: ignore[no-untyped-call]  # untyped in the stubs

    def _error(self, problem: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=self._next_event().start_mark)


def compose(text: str) -> tuple[Composer, Node | None]:
    """Return the root node of the document in `text`, if any, and the composer that made it.

    :raises NotYaml: a syntax error, more than one document, an unknown alias, or nesting that is too deep
    """
    composer: Composer | None = None
    try:
        composer = Composer(text)
        return composer, composer.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = ", ".join(filter(None, (error.context, error.problem)))
        raise NotYaml(line, column, f"not YAML: {message}", _hint(error.problem or "", text, line)) from None
    except yaml.reader.ReaderError as error:
        line, column = position_at(text, error.position)
        message = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise NotYaml(line, column, message, 'an escape in double quotes, such as "\\x07"') from None
    except (ValueError, OverflowError):
        # PyYAML raises these for escapes beyond Unicode ("\UFFFFFFFF") and absurd %YAML versions.
        mark = composer.get_mark() if composer else None
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise NotYaml(line, column, "not YAML: a number is too large", "an escape that Unicode has") from None


def position_at(text: str, index: int) -> tuple[int, int]:
    """Return the line and column of `text[index]`, counted from 1."""
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


def _hint(problem: str, text: str, line: int) -> str:
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    if "but got '{'" in problem and "${" in written:
        return "a ${…} within [ ] or { } needs quotes"
    return next((hint for part, hint in _HINTS.items() if part in problem), _GENERAL_HINT)
