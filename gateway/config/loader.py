"""Loads a `gateway.yaml` into a `Config`, or reports every mistake in it with line and column."""

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
"""A thousand routes take a fifth of this. A larger file must be something else (a log, /dev/zero)."""


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in the file at `path`.

    :param path: also the file's name in messages
    :param environ: variables for `${VAR}`; by default this process's environment
    :raises ConfigError: the file cannot be read, or has mistakes; or a file that it names cannot be used
    """
    return _load(os.fspath(path), environ)[0]


def load_admin(
    path: str | os.PathLike[str], environ: Mapping[str, str] | None = None, token: str | None = None
) -> Admin:
    """Return the admin section of the file at `path`, even if other parts of the file are wrong.

    :param path: also the file's name in messages
    :param environ: variables for `${VAR}`; by default this process's environment
    :param token: in place of the one in the file, which may then refer to variables that are not set
    :raises ConfigError: the file, or its admin section, cannot be read; has all mistakes
    """
    environ = os.environ if environ is None else environ
    try:
        admin = load(path, environ).admin
        return admin if token is None else admin.model_copy(update={"token": token})
    except ConfigError as error:
        tree = read_tree(_read(os.fspath(path)), environ)
        data = tree.data if isinstance(tree.data, Mapping) else {"admin": None}
        if any(key[:1] == ("admin",) and (token is None or key != ("admin", "token")) for key in tree.unread):
            raise
        section = data.get("admin", {})
        if token is not None and isinstance(section, Mapping):
            section = {**section, "token": token}
        try:
            return Admin.model_validate(section)
        except ValidationError:
            raise error from None


def parse(text: str, filename: str, environ: Mapping[str, str]) -> Config:
    """Return the configuration in the YAML `text`.

    :param text: the contents of the file
    :param filename: the file's name in messages; neither it nor any file that the text names is read
    :param environ: variables for `${VAR}`
    :raises ConfigError: the text has mistakes; all are listed, in the order of their positions
    """
    return _parse(text, filename, environ)[0]


def load_with_doubts(
    path: str | os.PathLike[str], environ: Mapping[str, str] | None = None
) -> tuple[Config, tuple[Problem, ...]]:
    """Return the configuration in the file at `path`, and warnings about it.

    :param path: also the file's name in messages
    :param environ: variables for `${VAR}`; by default this process's environment
    :raises ConfigError: as :func:`load`
    """
    filename = os.fspath(path)
    config, tree = _load(filename, environ)
    mistakes = []
    for key, error in doubts(config):
        # A value in its short form has only the position of the whole.
        place = key if key in tree.values else key[:-1]
        mistakes.append(_placed(tree, place, error))
    return config, _problems(filename, mistakes)


def _load(filename: str, environ: Mapping[str, str] | None) -> tuple[Config, Tree]:
    config, tree = _parse(_read(filename), filename, os.environ if environ is None else environ)
    mistakes = [_placed(tree, key, error) for key, error in config.mistakes_in_files()]
    if mistakes:
        raise _config_error(filename, mistakes)
    return config, tree


def _parse(text: str, filename: str, environ: Mapping[str, str]) -> tuple[Config, Tree]:
    """Same as `parse`, but also return the tree, which has the positions."""
    tree = read_tree(text, environ)
    config = None
    mistakes = list(tree.mistakes)
    if tree.data is None and () not in tree.unread:
        error = BadValue("the file is empty", "`listen`, `upstreams` and `routes` at least")
        mistakes.append(Mistake(tree.values[()], (), error))
    elif () not in tree.unread:
        try:
            directory = os.path.dirname(os.path.abspath(filename))
            config = Config.model_validate(tree.data, context={"directory": directory})
        except ValidationError as error:
            mistakes += (_placed(tree, key, bad) for key, bad in bad_values(error) if not _unread(tree, key))
    if config is None or mistakes:
        raise _config_error(filename, mistakes)
    return config, tree


def _read(filename: str) -> str:
    try:
        # Do not use Path.read_bytes(): a device or a pipe may never end.
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
    # The reason for the missing value was already reported; further errors about it are consequences.
    return any(key[:length] in tree.unread for length in range(len(key) + 1))


def _placed(tree: Tree, key: KeyPath, error: BadValue) -> Mistake:
    if isinstance(error, BadKey) and key in tree.keys:
        return Mistake(tree.keys[key], key, error)
    # A missing key gets the position of the nearest enclosing value in the file.
    around = next(key[:length] for length in range(len(key), -1, -1) if key[:length] in tree.values)
    return Mistake(tree.values[around], key, error)


def _config_error(filename: str, mistakes: list[Mistake]) -> ConfigError:
    return ConfigError(_problems(filename, mistakes))


def _problems(filename: str, mistakes: list[Mistake]) -> tuple[Problem, ...]:
    return tuple(
        Problem(filename, *position, key, error.message, error.hint)
        for position, key, error in sorted(mistakes, key=lambda mistake: mistake.position)
    )
