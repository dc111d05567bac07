"""What models say to a user who asked for what cannot be. Here, since models import nothing of ours."""

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """A model that cannot be: a size that does not fit, an unknown name or option. The message says what would."""


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' for a typed word, trying the whole (dotted) path first and the last part second."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    if not close:
        tails = {path.split(".")[-1]: path for path in reversed(known)}
        close = [tails[tail] for tail in difflib.get_close_matches(word.split(".")[-1], list(tails), n=1)]
    return f" Did you mean '{close[0]}'?" if close else ""
