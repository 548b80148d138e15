"""The one exception for what a user can cause and can fix."""


class UserError(Exception):
    """Bad input: the message is one line that names the file or the key, and the fix.

    The command line prints it on stderr without a traceback and exits with code 2.
    """
