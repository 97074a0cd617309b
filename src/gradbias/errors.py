"""Errors a person at the keyboard can mend: the command line prints their text and no traceback."""


class UsageError(ValueError):
    """A name, a parameter or a value that does not exist or does not fit; the message says which ones do."""


class TooLarge(UsageError):
    """A training that needs more memory than there is; the message says how much and what to make smaller."""


class ClaimError(ValueError):
    """A claim file that is broken or incomplete; the message names the file and, where known, the line."""


class StoreError(OSError):
    """A store that cannot be read or written; the message names the path and what to do."""


class NotApplicable(ValueError):
    """A measure that has no meaning for this model, loss or data; the message says why and what would have one."""


class ProbeError(ValueError):
    """A model, loss, probe data or checkpoint that cannot be measured; the message names the cause and the remedy."""
