"""The two kinds of error a user sees, and the exit code that goes with each.

Everything a user can cause (a bad SMILES, a corrupt checkpoint, an unwritable folder) is a
`UserInputError` whose message is one sentence that says what is wrong and how to mend it.
A run that broke for another reason is a `RunFailedError`. The command line prints the message
of either without a traceback.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_RUN_FAILED = 1
EXIT_USER_INPUT = 2
EXIT_TOO_MANY_FAILURES = 3


class PackflowError(Exception):
    """Base class of the errors that are shown to the user as one sentence."""

    exit_code = EXIT_RUN_FAILED


class UserInputError(PackflowError):
    """The user's input was wrong; the message names the input, the value and the remedy."""

    exit_code = EXIT_USER_INPUT


class RunFailedError(PackflowError):
    """The run broke; the message says which part and where to look."""

    exit_code = EXIT_RUN_FAILED


class TooManyFailuresError(PackflowError):
    """The run finished, but a larger fraction of candidates failed than the user allows."""

    exit_code = EXIT_TOO_MANY_FAILURES
