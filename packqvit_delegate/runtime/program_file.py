"""What a file is, before ExecuTorch gets it: its Python binding can end the process over what is no program."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from ..errors import MissingFileError, PackQViTError
from .program_tables import check_tables

IDENTIFIER = b"ET12"
"""FlatBuffers' file identifier of programs that ExecuTorch 1.5 runs, behind the offset of the root table."""

_OTHER_IDENTIFIERS: Mapping[bytes, str] = {
    b"BP08": "a bundled program, with test inputs around the program",
    b"FT01": "ExecuTorch's file of data (.ptd), not of a program",
    b"ED00": "an ETDump, what a program left when it was profiled",
    b"TFL3": "a TensorFlow Lite model",
}
_BEGINNINGS: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip file, as checkpoints of torch.save and .pt2 files are",
    b"\x80": "a pickle, as old checkpoints are",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file: unpack it",
    b"\x7fELF": "a native program or library",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"version https://git-lfs": "Git LFS's pointer to a file: fetch it with `git lfs pull`",
    b"<": "a web page or another text",
}

_HEADER = struct.Struct("<4sIQQQ")  # magic, its own length, bytes of the program, where segments begin, their bytes
_HEADER_AT, _HEADER_MAGIC, _OLD_HEADER_LENGTH = 8, b"eh00", 24
_SMALLEST = 32


def read_program(source: str | Path | bytes) -> bytes:
    """The bytes of a program.

    Args:
        source: A path, or the bytes themselves.

    Raises:
        MissingFileError: There is no such file.
        PackQViTError: It is no program, or only a part of one; the message says what it seems to be.
    """
    if isinstance(source, bytes):
        name, content = "what was given", source
    else:
        path = Path(source)
        if path.is_dir():
            raise MissingFileError(f"{path} is a folder, not a file: give a .pte")
        if not path.is_file():
            raise MissingFileError(f"{path} is not a file: give a .pte that is there")
        name = str(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PackQViTError(f"cannot read the program {path}: {error.strerror}") from error
    problem = _problem(content)
    if problem is not None:
        raise PackQViTError(f"cannot load the program: {name} {problem}")
    return content


def _problem(content: bytes) -> str | None:
    """What keeps the content from being a program, as the words behind its name."""
    if not content:
        return "is empty"
    if content[4:8] != IDENTIFIER:
        return f"is no ExecuTorch program (.pte): it seems to be {_kind(content)}"
    if len(content) < _SMALLEST:
        return f"is cut off: it has {len(content)} bytes, fewer than any program"
    whole = _whole_size(content)
    if isinstance(whole, str):
        return whole
    if len(content) < whole:
        return f"is cut off: it has {len(content)} of {whole} bytes; copy or export it again"
    if not 8 <= int.from_bytes(content[:4], "little") < len(content):
        return "is damaged: its root table is outside of it; copy or export it again"
    try:
        check_tables(content)
    except Exception:  # whatever reading damaged tables leads to
        return "is damaged: a table in it contradicts itself; copy or export it again"
    return None


def _whole_size(content: bytes) -> int | str:
    """Bytes that the header asks for, or what is wrong with it; programs without segments may have no header."""
    if content[_HEADER_AT : _HEADER_AT + 4] != _HEADER_MAGIC:
        return _SMALLEST
    if len(content) < _HEADER_AT + _HEADER.size:
        return f"is cut off within its header: it has {len(content)} bytes"
    _, length, program, segments_at, segments = _HEADER.unpack_from(content, _HEADER_AT)
    segments = segments if length >= _HEADER.size else 0
    has_segments = segments_at > 0 or segments > 0
    if not _OLD_HEADER_LENGTH <= length <= program or program < _SMALLEST or has_segments and segments_at < program:
        return "is damaged: its header contradicts itself; copy or export it again"
    return max(program, segments_at + segments)


def _kind(content: bytes) -> str:
    """What a file seems to be, as far as its first bytes say."""
    if content[4:8] in _OTHER_IDENTIFIERS:
        return _OTHER_IDENTIFIERS[content[4:8]]
    for beginning, kind in _BEGINNINGS.items():
        if content.startswith(beginning):
            return kind
    if content[8:9] == b"{" and 0 < int.from_bytes(content[:8], "little") <= len(content):
        return "weights (.safetensors), of which packqvit_delegate.export makes a program"
    if content[4:6] == b"ET" and content[6:8].isdigit():
        identifier = content[4:8].decode("ascii")
        return f"a program of another version of ExecuTorch ({identifier}): export it with this one"
    if not any(content):
        return "a file of zeros"
    head = content[:512]
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text, beginning with {head[:24].decode('ascii')!r}"
    return f"something else, beginning with the bytes {content[:8].hex(' ')}"
