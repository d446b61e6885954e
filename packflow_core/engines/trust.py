"""Which engines may be run on behalf of whom.

An engine name can name code: `ase:module:factory` imports a module and calls a function, and a
checkpoint of `uma:/path` is a pickle, which can do anything when it is loaded. Who types such a
name at the command line runs his own code, and the command line says so with `allow`. A name that
comes from elsewhere (a deployment's parameters, a web form) is refused unless whoever runs the
installation allowed it in the environment variable PACKFLOW_ALLOW_ENGINES.
"""

from __future__ import annotations

import os

from packflow_core.engines import factory, uma_files
from packflow_core.errors import UserInputError

#: Patterns, comma separated: `module:factory`, `uma:/folder/file.pt`, either with a `*` at its
#: end for whatever begins like that, or `*` for everything.
VARIABLE = "PACKFLOW_ALLOW_ENGINES"

_allowed_here: set[str] = set()


def needs_trust(name: str) -> bool:
    """Whether an engine name makes code run that is not part of this package or its extras."""
    return name.startswith((factory.PREFIX, uma_files.PREFIX))


def allow(name: str) -> None:
    """Trust an engine in this process from now on; for names that the user gave himself.

    Arguments of a factory do not matter: the function is trusted, not a call of it.

    Raises:
        UserInputError: the name has a wrong form.
    """
    if needs_trust(name):
        _allowed_here.add(_subject(name))


def check_trusted(name: str) -> None:
    """Refuse an engine that nobody with a say allowed.

    Raises:
        UserInputError: it is not allowed, with what to set; or its name has a wrong form.
    """
    if not needs_trust(name):
        return
    subject = _subject(name)
    patterns = [part.strip() for part in os.environ.get(VARIABLE, "").split(",")]
    if subject in _allowed_here or any(_matches(subject, pattern) for pattern in patterns):
        return
    raise UserInputError(
        f"The engine '{name}' runs code that is not part of this package and is not allowed here; "
        f"to allow it, set {VARIABLE}={subject} where the run is planned (several are separated "
        "by commas; '*' at the end of one stands for anything)."
    )


def _subject(name: str) -> str:
    """What is allowed or not: no way around it by another spelling of the same thing."""
    if name.startswith(factory.PREFIX):
        return factory.parse_factory(name).subject
    return uma_files.PREFIX + str(uma_files.local_path(name).resolve())


def _matches(subject: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return subject.startswith(pattern[:-1])
    return bool(pattern) and subject == pattern
