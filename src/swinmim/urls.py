"""What a URL must not give away."""

import re


def holds_password(text: str) -> bool:
    """Whether a URL in the text carries user:password@, or a token or signature among its parameters."""
    parameter = r"://[^\s]*[?&][^=&\s]*(token|sig|secret|passw|credential|key)[^=&\s]*="
    return re.search(rf"://[^/\s?#]*@|{parameter}", text, re.IGNORECASE) is not None
