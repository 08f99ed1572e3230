"""The one spelling of a picture's name: what tells whether two annotations are about one picture. Light on imports."""

import unicodedata


def canonical_name(name: str) -> str:
    """Return a name with `/` between its parts, without `.` and empty parts, in Unicode's composed form (NFC).

    `./a.jpg`, `x//a.jpg` and Windows' `x\\a.jpg` name the pictures that `a.jpg` and `x/a.jpg` name; macOS writes an é as two
    characters. A leading `/` and `..` stay: they lead out of a dataset, and are refused where a picture is looked for.
    """
    composed = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [part for part in composed.split("/") if part not in ("", ".")]
    return ("/" if composed.startswith("/") else "") + "/".join(parts)
