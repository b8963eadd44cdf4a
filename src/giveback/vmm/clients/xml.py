"""Parse untrusted XML: all of XML 1.0 except a document type.

Only a document type can declare entities, which expand or fetch something. expat itself reports the start
of one, so that CDATA, comments, `<!` in text and processing instructions are not mistaken for it. Source:
Python's xml.parsers.expat, "XML vulnerabilities"; libvirt.org/formatdomain.html (metadata is free XML).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import VmError

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET
    from xml.parsers.expat import XMLParserType

LIMIT_BYTES = 4 << 20
"""libvirt's own limit for a text that it sends (REMOTE_STRING_MAX)."""
DEPTH_LIMIT = 200
"""Limit of nested elements; libvirt's own XML has about eight levels."""


class _RefusedError(Exception):
    """The document is well-formed XML but not allowed here."""


def parse(text: str, what: str = "libvirt's XML") -> ET.Element:
    """Return the root element of a document. Names keep their prefixes as written.

    Comments and processing instructions below the root are kept, so that they survive a change of the
    document. Raises VmError, which calls the document `what`, if it is not XML, too long, or has a DTD.
    """
    from xml.parsers import expat  # noqa: PLC0415

    data = text.encode("utf-8", "surrogatepass")
    if len(data) > LIMIT_BYTES:
        raise VmError(f"{what} is longer than {LIMIT_BYTES >> 20} MiB; not read")
    # The text is decoded already: an encoding in its declaration is ignored.
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
    """A connection of a parser to a TreeBuilder, which refuses what is not allowed."""

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
