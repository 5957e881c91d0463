"""HTML that is safe by construction: the one place where text becomes markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

from probe.formats import plain

_VOID = ("img", "br", "wbr", "meta", "input")


class Html(str):
    """Text that is markup already. Everything else is escaped when it meets an element."""

    __slots__ = ()


def escape(value: object) -> Html:
    """`value` as markup: unchanged when it is `Html`, escaped (quotes too) when it is anything else."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).replace("\x00", "\ufffd"), quote=True))


def el(name: str, *children: object, **attributes: object) -> Html:
    """One element. `class_` is class, `data_x` is data-x; an attribute of None or False is left out."""
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        written.append(label if value is True else f'{label}="{escape(value)}"')
    start = f"<{' '.join(written)}>"
    return Html(start if name in _VOID else f"{start}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Several pieces one after the other; None is nothing."""
    return Html("".join(escape(child) for child in children if child is not None))


def json_script(identifier: str, value: Any) -> Html:
    """`value` as a block of JSON that no parser can leave early: no <, > or & in it, ASCII only, no NaN."""
    text = json.dumps(plain(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


def script(source: str) -> tuple[Html, str]:
    """A script of ours as an inline element, and the hash that a content security policy allows it by."""
    text = source.replace("</script", "<\\/script")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return Html(f"<script>{text}</script>"), f"'sha256-{digest}'"
