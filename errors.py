"""The one exception that Foldline raises for a user's mistake or a broken input.

The command line turns it into a single message and exit code 2; anything else that escapes is a bug and keeps its
traceback.
"""


class FoldlineError(Exception):
    """Something outside the program is wrong: a file, a flag, a directory, a missing package.

    The message names the value, the rule it breaks and the way out, in that order.
    """

    exit_code = 2  # of the command that it ends


UNAVAILABLE = 69  # exit code where something that a run needs went away: a scheduler starts it again (EX_UNAVAILABLE)


def missing_package(package: str, extra: str, purpose: str) -> FoldlineError:
    """The error for an optional package: what needs it and how to install it."""
    return FoldlineError(f"{purpose} needs the package '{package}', which is not installed; run: pip install 'foldline[{extra}]'")
