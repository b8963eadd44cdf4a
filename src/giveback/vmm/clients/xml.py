"""Foreign XML, read without trust: everything that XML 1.0 allows but a document type.

Only a document type can declare entities, hence expand or fetch something. expat itself says when one
begins, so that CDATA, comments, `<!` in text and processing instructions are none. Source: Python's
xml.parsers.expat, "XML vulnerabilities"; libvirt.org/formatdomain.html (metadata is free XML).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import VmError

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET
    from xml.parsers.expat import XMLParserType

LIMIT_BYTES = 4 << 20
"""libvirt's own limit of a text that it sends (REMOTE_STRING_MAX)."""
DEPTH_LIMIT = 200
"""Levels of elements; libvirt's own have about eight."""


class _RefusedError(Exception):
    """What is well-formed, and is not read."""


def parse(text: str, what: str = "libvirt's XML") -> ET.Element:
    """Return the root of a document. Names stay as they are written, prefixes and all.

    Comments and processing instructions below the root are kept, so that what is changed and written
    again has them. Raises VmError that says what `what` is not: XML, short enough, without a DTD.
    """
    from xml.parsers import expat  # noqa: PLC0415

    data = text.encode("utf-8", "surrogatepass")
    if len(data) > LIMIT_BYTES:
        raise VmError(f"{what} is longer than {LIMIT_BYTES >> 20} MiB; not read")
    # The text is decoded already: an encoding in its declaration counts for nothing.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    builder = _Builder(parser)
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        raise VmError(f"{what} does not parse: {error}") from error
    except _RefusedError as error:
        raise VmError(f"{what} {error}; not read") from error


class _Builder:
    """Joins a parser to a TreeBuilder, and refuses what may not be."""

    def __init__(self, parser: XMLParserType) -> None:
        from xml.etree import ElementTree as ET  # noqa: PLC0415

        self._tree = ET.TreeBuilder(insert_comments=True, insert_pis=True)
        self._depth = 0
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._entity
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._tree.data
        parser.CommentHandler = self._comment
        parser.ProcessingInstructionHandler = self._instruction

    def close(self) -> ET.Element:
        root: ET.Element = self._tree.close()
        return root

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise _RefusedError(f"nests more than {DEPTH_LIMIT} elements")
        self._tree.start(name, attributes)

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._tree.end(name)

    def _comment(self, text: str) -> None:
        if self._depth:
            self._tree.comment(text)

    def _instruction(self, target: str, text: str) -> None:
        if self._depth:
            self._tree.pi(target, text or None)

    @staticmethod
    def _doctype(*_: object) -> None:
        raise _RefusedError("has a document type (DOCTYPE), which may declare entities")

    @staticmethod
    def _entity(*_: object) -> None:
        raise _RefusedError("declares an entity")
