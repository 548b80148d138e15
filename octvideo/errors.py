"""The exception for what a user can cause and fix, and error messages in one line."""

__all__ = ["UserError", "one_line", "reason_of"]


class UserError(Exception):
    """Invalid input. The message is one line that names the file or the key, and the fix.

    The command line prints it on stderr without a traceback and exits with code 2.
    """


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line; its type if it has no message.

    A UserError of a loader worker has the worker's traceback in front, which is removed. Other line breaks in a
    UserError are those of a path; they are shown as ``\\n``.
    """
    text = str(error).rpartition("octvideo.errors.UserError: ")[2].strip()
    if isinstance(error, UserError):
        return "\\n".join(text.splitlines())
    return " ".join(text.split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return the reason in an error, in one line: without the number and the file name of an OSError."""
    return getattr(error, "strerror", None) or one_line(error)
