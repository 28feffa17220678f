"""Text files that may be gzipped: read as lines, written whole or not at all."""

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from ttcsim.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without line ends; a gzipped file is unpacked.

    Gzip is told by the first two bytes, so a renamed file is read just as well. A byte order mark,
    which spreadsheet programs like to put first, is dropped.

    Raises InputError if the file cannot be read, is damaged, or is not text.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
        # Not str.splitlines: it also splits at characters that JSON allows inside a string.
        return content.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read: not a UTF-8 text file") from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: cannot be read: damaged gzip file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text lines to `path`, gzipped when the name ends in `.gz`.

    The same lines give the same bytes: the gzip header holds neither time nor name. The content
    goes to a temporary file in the same folder, which is renamed at the end, so a reader never sees
    half a file.

    Raises InputError if the folder cannot be written.
    """
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=9, mtime=0)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
