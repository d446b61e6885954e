"""A prefix of an S3 bucket: the few requests that a run needs, and one sentence when one fails.

Any server that speaks S3 will do (AWS, MinIO, Ceph) as long as it knows conditional writes
(If-None-Match, If-Match), which the lock of a run is made of. Credentials, region and address come
from where every tool of AWS looks for them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE,
AWS_REGION, AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packflow_core.errors import RunFailedError, UserInputError

INSTALL = "pip install 'packflow-csp[s3]'"
#: `s3://bucket/prefix`, also as a path made of it, which has lost a slash.
_URI = re.compile(r"s3:/+([^/]+)(?:/+(.*))?")


class ObjectStoreError(RunFailedError):
    """The object store did not answer, or refused; what it holds is as it was."""


class ConditionError(Exception):
    """A conditional write found the object other than expected."""


class _MissingError(Exception):
    """There is no such object."""


@dataclass(frozen=True)
class Stored:
    """An object of the store.

    Attributes:
        name: below the prefix.
        etag: changes with the content.
        size: in bytes.
        age_s: time since it was written, by the clock of the server, s; 0 where not asked for.
    """

    name: str
    etag: str
    size: int
    age_s: float = 0.0


def object_uri(path: str | Path) -> str | None:
    """The URI that a path or text names, in its proper form; None for a local path.

    Raises:
        UserInputError: an S3 URI without a prefix, which would fill the root of a bucket.
    """
    found = _URI.fullmatch(str(path))
    if found is None:
        return None
    prefix = re.sub(r"/+", "/", found[2] or "").strip("/")
    if not prefix:
        raise UserInputError(
            f"{path} names a whole bucket; give a run its own prefix, as in s3://{found[1]}/runs/a."
        )
    return f"s3://{found[1]}/{prefix}"


class ObjectFolder:
    """Objects below one prefix.

    Args:
        uri: `s3://bucket/prefix`.

    Raises:
        UserInputError: boto3 is not installed, or no credentials were found.
    """

    def __init__(self, uri: str) -> None:
        proper = object_uri(uri)
        if proper is None:
            raise ValueError(f"{uri} is no S3 URI")
        self.uri = proper
        self._bucket, _, prefix = proper.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/"
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise UserInputError(f"{uri} needs boto3; {INSTALL}.") from error
        with self._said():
            session = boto3.session.Session()
            if session.get_credentials() is None:
                raise UserInputError(
                    f"No credentials for {uri} were found; set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
                )
            self._client: Any = session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                config=Config(
                    retries={"max_attempts": 5, "mode": "standard"},
                    connect_timeout=10,
                    read_timeout=60,
                ),
            )

    def list(self) -> Iterator[Stored]:
        """All objects."""
        with self._said():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    name = item["Key"].removeprefix(self._prefix)
                    yield Stored(name, item["ETag"], int(item["Size"]))

    def put(self, name: str, data: bytes, *, new: bool = False, etag: str | None = None) -> str:
        """Write an object, whole or not at all; the server checks its SHA-256.

        Args:
            name: below the prefix.
            data: content, at most 5 GB.
            new: only where there is none yet.
            etag: only in place of the object with this one.

        Returns:
            The etag of what was written.

        Raises:
            ConditionError: the object is not as expected.
            ObjectStoreError: no answer, or refused.
        """
        condition = {"IfNoneMatch": "*"} if new else {"IfMatch": etag} if etag else {}
        with self._said():
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=data,
                ChecksumAlgorithm="SHA256",
                **condition,
            )
        return str(answer["ETag"])

    def get(self, name: str) -> tuple[bytes, Stored] | None:
        """Content of an object, its checksum verified; None where there is none."""
        try:
            answer = self._get(name)
        except _MissingError:
            return None
        with self._said():
            data: bytes = answer["Body"].read()
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        age = _age_s(answer["LastModified"], date)
        return data, Stored(name, answer["ETag"], len(data), age)

    def _get(self, name: str) -> dict[str, Any]:
        with self._said():
            answer: dict[str, Any] = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + name, ChecksumMode="ENABLED"
            )
        return answer

    def remove(self, name: str) -> None:
        """Remove an object; nothing where there is none."""
        with self._said():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what boto3 raises into one sentence."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            told = error.response.get("Error", {})
            code = str(told.get("Code", ""))
            if code in ("NoSuchKey", "404"):
                raise _MissingError from error
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                raise ConditionError from error
            if code == "NoSuchBucket":
                raise UserInputError(
                    f"There is no bucket {self._bucket} for {self.uri}; make it first."
                ) from error
            if code == "NotImplemented":
                raise UserInputError(
                    f"The server of {self.uri} knows no conditional writes, so two runs could "
                    "spoil each other; use another, or a local folder."
                ) from error
            if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"):
                raise UserInputError(
                    f"The credentials do not open {self.uri} ({code}); check AWS_ACCESS_KEY_ID, "
                    "AWS_PROFILE and the rights of the bucket."
                ) from error
            raise ObjectStoreError(
                f"{self.uri} refused a request ({code}: {told.get('Message', '')})."
            ) from error
        except (BotoCoreError, OSError) as error:
            raise ObjectStoreError(
                f"{self.uri} does not answer ({type(error).__name__}: {error})."
            ) from error


def _age_s(written: datetime.datetime, now: str | None) -> float:
    """Time since an object was written, both by the clock of the server."""
    from email.utils import parsedate_to_datetime

    here = parsedate_to_datetime(now) if now else datetime.datetime.now(datetime.UTC)
    return max(0.0, (here - written).total_seconds())
