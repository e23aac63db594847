"""Messages as tests compare them: by the argument's name and the given value, not by their words."""

import re


def naming(*parts):
    """The regular expression of a message that has every part, in any order and as whole words.

    A string is a part as it is: the name of an argument, or what the message says of a value. The part of any other
    value is its repr.
    """
    return r"\A(?s:" + "".join(f"(?=.*{_whole(part)})" for part in parts) + ")"


def _whole(part):
    text = part if isinstance(part, str) else repr(part)
    before = r"(?<![\w.])" if re.match(r"\w", text) else ""
    after = r"(?!\w|\.\d)" if re.search(r"\w\Z", text) else ""
    return f"{before}{re.escape(text)}{after}"
