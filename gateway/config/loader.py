"""From a `gateway.yaml` to a `Config`, or to every mistake in it with its line and column."""

import os
from collections.abc import Mapping

from pydantic import ValidationError

from gateway.config.composer import position_at
from gateway.config.doubts import doubts
from gateway.config.errors import BadKey, BadValue, ConfigError, KeyPath, Problem
from gateway.config.schema import Admin, Config
from gateway.config.section import bad_values
from gateway.config.tree import Mistake, Position, Tree, read_tree

MAX_FILE_BYTES = 1 << 20
"""A thousand routes take a fifth of this; beyond it a file is taken for something else (a log, /dev/zero)."""


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in the file at `path`.

    Args:
        path: also what the file is called in messages.
        environ: what `${VAR}` is read from; by default this process's environment.

    Raises:
        ConfigError: the file cannot be read, or holds mistakes.
    """
    filename = os.fspath(path)
    return parse(_read(filename), filename, os.environ if environ is None else environ)


def load_admin(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Admin:
    """Return where the gateway that runs by the file at `path` is told things, whatever else is wrong with the file.

    Args:
        path: also what the file is called in messages.
        environ: what `${VAR}` is read from; by default this process's environment.

    Raises:
        ConfigError: the file cannot be read, or does not say; it holds every mistake.
    """
    environ = os.environ if environ is None else environ
    try:
        return load(path, environ).admin
    except ConfigError as error:
        tree = read_tree(_read(os.fspath(path)), environ)
        data = tree.data if isinstance(tree.data, Mapping) else {"admin": None}
        if any(key[:1] == ("admin",) for key in tree.unread):
            raise
        try:
            return Admin.model_validate(data.get("admin", {}))
        except ValidationError:
            raise error from None


def parse(text: str, filename: str, environ: Mapping[str, str]) -> Config:
    """Return the configuration in the YAML `text`.

    Args:
        text: what the file holds.
        filename: what the file is called in messages; nothing is read from it.
        environ: what `${VAR}` is read from.

    Raises:
        ConfigError: there are mistakes in it; all of them, in the order of their places.
    """
    return _parse(text, filename, environ)[0]


def load_with_doubts(
    path: str | os.PathLike[str], environ: Mapping[str, str] | None = None
) -> tuple[Config, tuple[Problem, ...]]:
    """Return the configuration in the file at `path`, and what it says but can hardly mean.

    Args:
        path: also what the file is called in messages.
        environ: what `${VAR}` is read from; by default this process's environment.

    Raises:
        ConfigError: the file cannot be read, or holds mistakes.
    """
    filename = os.fspath(path)
    config, tree = _parse(_read(filename), filename, os.environ if environ is None else environ)
    mistakes = []
    for key, error in doubts(config):
        # Of what may be written in a shorter form, the place is that of the whole.
        place = key if key in tree.values else key[:-1]
        mistakes.append(_placed(tree, place, error))
    return config, _problems(filename, mistakes)


def _parse(text: str, filename: str, environ: Mapping[str, str]) -> tuple[Config, Tree]:
    """As `parse`, with where in the text everything stands."""
    tree = read_tree(text, environ)
    config = None
    mistakes = list(tree.mistakes)
    if tree.data is None and () not in tree.unread:
        error = BadValue("the file is empty", "`listen`, `upstreams` and `routes` at least")
        mistakes.append(Mistake(tree.values[()], (), error))
    elif () not in tree.unread:
        try:
            config = Config.model_validate(tree.data)
        except ValidationError as error:
            mistakes += (_placed(tree, key, bad) for key, bad in bad_values(error) if not _unread(tree, key))
    if config is None or mistakes:
        raise _config_error(filename, mistakes)
    return config, tree


def _read(filename: str) -> str:
    try:
        # Not a pathlib one-liner: a device or a pipe may never end.
        with open(filename, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(
            filename, "there is no such file", "the path of one, after -c or in $GATEWAY_CONFIG"
        ) from None
    except IsADirectoryError:
        raise _unreadable(filename, "this is a directory", "the path of a file in it") from None
    except PermissionError:
        raise _unreadable(filename, "this user may not read it", "read permission for the gateway's user") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(filename, f"cannot be read: {reason.lower()}", "the path of a readable file") from None
    if len(content) > MAX_FILE_BYTES:
        raise _unreadable(filename, f"has more than {MAX_FILE_BYTES} bytes", "a gateway.yaml")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        position = Position(*position_at(before, len(before)))
        problem = BadValue(f"the byte 0x{content[error.start]:02x} is not UTF-8 here", "a file saved as UTF-8")
        raise _config_error(filename, [Mistake(position, (), problem)]) from None


def _unreadable(filename: str, message: str, hint: str) -> ConfigError:
    return _config_error(filename, [Mistake(Position(1, 1), (), BadValue(message, hint))])


def _unread(tree: Tree, key: KeyPath) -> bool:
    # Why there is no value was reported already; that it is now missing, or None, is only a consequence.
    return any(key[:length] in tree.unread for length in range(len(key) + 1))


def _placed(tree: Tree, key: KeyPath, error: BadValue) -> Mistake:
    if isinstance(error, BadKey) and key in tree.keys:
        return Mistake(tree.keys[key], key, error)
    # What is not in the file (a missing key) stands at the nearest thing around it that is.
    around = next(key[:length] for length in range(len(key), -1, -1) if key[:length] in tree.values)
    return Mistake(tree.values[around], key, error)


def _config_error(filename: str, mistakes: list[Mistake]) -> ConfigError:
    return ConfigError(_problems(filename, mistakes))


def _problems(filename: str, mistakes: list[Mistake]) -> tuple[Problem, ...]:
    return tuple(
        Problem(filename, *position, key, error.message, error.hint)
        for position, key, error in sorted(mistakes, key=lambda mistake: mistake.position)
    )
