"""What is known of a model's file: its hash and where it came from, as JSON beside the file."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What was recorded when a file was first seen.

    Attributes:
        sha256: of the file, hexadecimal.
        size: bytes.
        how: "at the first download", or "when it was verified" for a file put there by hand.
        date: day of that, UTC.
        source: address it was downloaded from; empty for none.
        revision: commit of the repository; empty where it is not known.
        stated: whether the server stated the same hash.
    """

    sha256: str
    size: int
    how: str
    date: str
    source: str = ""
    revision: str = ""
    stated: bool = False


def record_path(path: Path) -> Path:
    """Where the record of a model's file lies."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> Record | None:
    """Record of a model's file, None where there is none or it is damaged."""
    try:
        content = json.loads(record_path(path).read_text(encoding="utf-8"))
        record = Record(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("the record %s cannot be read (%s)", record_path(path), error)
        return None
    return record if re.fullmatch(r"[0-9a-f]{64}", str(record.sha256)) else None


def write_record(path: Path, record: Record) -> None:
    """Record a model's file, whole or not at all."""
    target = record_path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    temporary.replace(target)


def today() -> str:
    """The day, UTC, as records give it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def sha256_of_file(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
