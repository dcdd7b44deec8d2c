"""Text that others wrote, decoded: UTF-8 or UTF-16, with or without a byte-order mark. Standard library only.

Editors and shells on Windows save UTF-16, or begin UTF-8 with a byte-order mark; neither changes what the text says.
"""

from __future__ import annotations

import codecs

NO_TEXT = "it is neither UTF-8 nor UTF-16 text"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding_of(start: bytes) -> str:
    """The name of a text's encoding, by its first bytes, four or more of them where it has so many.

    >>> encoding_of("id".encode("utf-16")), encoding_of("id".encode("utf-16-le")), encoding_of(b"id,rle")
    ('utf-16', 'utf-16-le', 'utf-8-sig')
    """
    if start.startswith(_UTF16):
        return "utf-16"
    # ASCII in two bytes each: no text has zeros
    if len(start) > 1 and 0 in start[:2] and any(start[:2]):
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return "utf-8-sig"


def decode(content: bytes) -> str:
    r"""The text of a file's bytes, without a byte-order mark; line ends stay as they are.

    Raises:
        ValueError: it is neither UTF-8 nor UTF-16.

    >>> decode(b"\xef\xbb\xbfid\r\n"), decode("id".encode("utf-16"))
    ('id\r\n', 'id')
    """
    try:
        return content.decode(encoding_of(content[:4]))
    except UnicodeDecodeError:
        raise ValueError(NO_TEXT) from None
