"""Names that people type into files and calls, and the error that helps when one is misspelt."""

import difflib
from collections.abc import Iterable


def require_known(found: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raise if a name is not known.

    Args:
        found: Names that were given.
        known: Names that there are.
        where: Begins the message: `"Recipe file x.json"`.

    Raises:
        ValueError: If a name is unknown; names the closest one, and all.
    """
    names = sorted(known)
    for name in found:
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"{where} has {name!r}{hint}, but it may have: {', '.join(names)}.")
