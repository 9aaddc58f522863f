"""Tell names whose values are keys: such values are written nowhere. Needs the standard library alone."""

import re

_KEY = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether a variable or option of this name may hold a key."""
    return bool(_KEY.search(name))
