"""Environment variables in values: `${VAR}`, `${VAR:-default}`, and `$${` for a literal `${`."""

import re
from collections.abc import Mapping

from gateway.config.errors import BadValue
from gateway.config.words import quoted

_REFERENCE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|\$\{")


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with references to variables replaced. As in a shell, `:-` also applies to empty variables.

    :raises BadValue: a variable is not set and has no default, or a `${` does not start a reference
    """
    unset: dict[str, None] = {}

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        name, default = match["name"], match["default"]
        if name is None:
            hint = "${VAR}, ${VAR:-default}, or $${ for a literal ${"
            raise BadValue(f"{quoted(match.string[match.start() :])} is not a reference to a variable", hint)
        if default is not None:
            return environ.get(name) or default
        if name not in environ:
            unset[name] = None
        return environ.get(name, "")

    result = _REFERENCE.sub(replace, text)
    if unset:
        first, *others = unset
        names = f"variables {', '.join(unset)} are" if others else f"variable {first} is"
        raise BadValue(f"the environment {names} not set", f"set, or with a default: ${{{first}:-…}}")
    return result
