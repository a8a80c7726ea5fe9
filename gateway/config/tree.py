"""Reads a YAML document as plain data, with the position of each part in the file.

Types are those of yaml.SafeLoader. Mistakes that SafeLoader would accept, or fail on with a traceback, are reported:
duplicate keys, keys that are not text, tags, recursive aliases, documents that expand without limit.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from yaml import YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.config.composer import MAX_DEPTH, MAX_NODES, Composer, NotYaml, compose
from gateway.config.environment import substitute
from gateway.config.errors import BadKey, BadValue, KeyPath
from gateway.config.words import found, quoted

_TAG = "tag:yaml.org,2002:"
_TEXT = _TAG + "str"
_MERGE = _TAG + "merge"
# `=` and `<<` have their own types in YAML 1.1; as values they are plain text.
_READ_AS_TEXT = {_TEXT, _MERGE, _TAG + "value"}
_READ_BY_YAML = {_TAG + name for name in ("int", "float", "bool", "null", "timestamp")}
_LONGEST_TYPED = 100


class Position(NamedTuple):
    """A position in the file; both numbers count from 1."""

    line: int
    column: int


class Mistake(NamedTuple):
    """An error at a position, about the value or key at `key`."""

    position: Position
    key: KeyPath
    error: BadValue


@dataclass
class Tree:
    """A document. Values that could not be read are None in `data`, and their keys are in `unread`."""

    data: object = None
    values: dict[KeyPath, Position] = field(default_factory=dict)
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)


class _TooLarge(Exception):
    """Expanding the document further would take too long, or recurse too deeply."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake)
        self.mistake = mistake


_Entries: TypeAlias = dict[str, tuple[Node, Node]]


def read_tree(text: str, environ: Mapping[str, str]) -> Tree:
    """Read the YAML document `text`, with variables replaced from `environ`.

    A bad document does not raise: its errors are in the tree's `mistakes`.
    """
    tree = Tree()
    try:
        composer, root = compose(text)
    except NotYaml as error:
        position = Position(error.line, error.column)
        tree.mistakes.append(Mistake(position, (), BadValue(error.message, error.hint)))
        tree.unread.add(())
        return tree
    if root is None:
        tree.values[()] = Position(1, 1)
        return tree
    try:
        tree.data = _Reader(tree, composer, environ).read(root, ())
    except _TooLarge as error:
        tree.mistakes.append(error.mistake)
        tree.unread.add(())
    return tree


class _Reader:
    """Fills a tree from composed nodes; a node with aliases is read once per use."""

    def __init__(self, tree: Tree, composer: Composer, environ: Mapping[str, str]) -> None:
        self._tree = tree
        self._composer = composer
        self._environ = environ
        self._nodes = 0
        self._around: set[int] = set()  # ids of the nodes that hold the one being read

    def read(self, node: Node, key: KeyPath) -> object:
        """Return the data of the node at `key`; if it cannot be read, record a mistake and return None."""
        self._tree.values[key] = _position(node)
        try:
            with self._within(node):
                if isinstance(node, MappingNode):
                    _check_tag(node, "map")
                    return self._read_mapping(node, key)
                if isinstance(node, SequenceNode):
                    _check_tag(node, "seq")
                    return [self.read(item, (*key, index)) for index, item in enumerate(node.value)]
                return self._read_scalar(node)
        except BadValue as error:
            self._mistake(node, key, error)
            self._tree.unread.add(key)
            return None

    def _read_mapping(self, node: MappingNode, key: KeyPath) -> dict[str, object]:
        data = {}
        for name, (key_node, value_node) in self._entries(node, key).items():
            self._tree.keys[(*key, name)] = _position(key_node)
            data[name] = self.read(value_node, (*key, name))
        return data

    def _entries(self, node: MappingNode, key: KeyPath) -> _Entries:
        own: _Entries = {}
        merged: _Entries = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for name, entry in self._merged_entries(value_node, key).items():
                    merged.setdefault(name, entry)
                continue
            name = key_node.value
            if not isinstance(key_node, ScalarNode) or key_node.tag not in _READ_AS_TEXT:
                message = f"expected a key that is text, found {found(self._untyped(key_node))}"
                self._mistake(key_node, key, BadKey(message, "quotes make it text"))
            elif name in own:
                first = _position(own[name][0])
                hint = f"one `{name}` only: the first is on line {first.line}"
                self._mistake(key_node, (*key, name), BadKey("this key is given twice", hint))
            else:
                own[name] = (key_node, value_node)
        return merged | own

    def _merged_entries(self, node: Node, key: KeyPath) -> _Entries:
        """Return the entries that `<<: node` merges; the first of several mappings wins (https://yaml.org/type/merge.html)."""
        merged: _Entries = {}
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(source, MappingNode):
                error = BadValue("expected a mapping to merge", "an alias, such as *name")
                self._mistake(source, (*key, "<<"), error)
                continue
            self._nodes += len(source.value)  # a merge copies these, so count them
            with self._within(source):
                for name, entry in self._entries(source, key).items():
                    merged.setdefault(name, entry)
        return merged

    def _read_scalar(self, node: Node) -> object:
        text = substitute(node.value, self._environ)
        tag = node.tag
        if text != node.value and isinstance(node, ScalarNode) and node.style is None:
            # Unquoted, so a variable may hold a number, as if it were written here.
            tag = self._composer.resolve(ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # as above
        return self._typed(tag, text)

    def _typed(self, tag: str, text: str) -> object:
        if tag in _READ_AS_TEXT:
            return text
        if tag not in _READ_BY_YAML:
            raise _unknown_tag(tag)
        kind = tag.removeprefix(_TAG)
        # 1:1:1:… is a number in YAML 1.1, and takes quadratic time.
        if len(text) > _LONGEST_TYPED:
            raise BadValue(f"{quoted(text)} is too long for a value of type {kind}", "quotes make it text")
        try:
            return self._composer.construct_object(ScalarNode(tag, text))
        except (ArithmeticError, AttributeError, LookupError, ValueError, YAMLError):
            # SafeLoader trusts its patterns, but these accept 2001-99-99 as a date, 0x_ as a number…
            raise BadValue(f"{quoted(text)} cannot be read as {kind}", "quotes make it text") from None

    def _untyped(self, node: Node) -> object:
        """Return a value of the type that `node`, which is not text, would have."""
        if not isinstance(node, ScalarNode):
            return [] if isinstance(node, SequenceNode) else {}
        try:
            return self._typed(node.tag, node.value)
        except BadValue:
            return node.value

    @contextmanager
    def _within(self, node: Node) -> Iterator[None]:
        self._nodes += 1
        if id(node) in self._around:
            raise BadValue("an alias to what it stands in", "a copy of what is meant, as this never ends")
        if self._nodes > MAX_NODES:
            error = BadValue(f"expands to more than {MAX_NODES} values", "fewer aliases")
            raise _TooLarge(Mistake(_position(node), (), error))
        if len(self._around) > MAX_DEPTH:
            error = BadValue(f"expands to more than {MAX_DEPTH} levels", "fewer aliases within aliases")
            raise _TooLarge(Mistake(_position(node), (), error))
        self._around.add(id(node))
        try:
            yield
        finally:
            self._around.discard(id(node))

    def _mistake(self, node: Node, key: KeyPath, error: BadValue) -> None:
        self._tree.mistakes.append(Mistake(_position(node), key, error))


def _position(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _check_tag(node: Node, name: str) -> None:
    if node.tag != _TAG + name:
        raise _unknown_tag(node.tag)


def _unknown_tag(tag: str) -> BadValue:
    return BadValue(f"the tag {quoted(tag)} is not known", "the value without it")
