"""What is known of the public weights: `weights/manifest.yaml`, read and checked."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vertinst.errors import CheckpointError
from vertinst.settings import check_settings, read_settings

__all__ = ["Entry", "Manifest", "may_fetch", "packaged_manifest", "read_manifest"]

# Parts of a path that every file system takes, none of them hidden.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,120}$")]
Text = Annotated[str, Field(min_length=1, max_length=500)]
MIB = 2**20
# For files of which nobody says how large they are.
MAX_BYTES = 1024 * MIB
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def may_fetch(url: str) -> bool:
    """Whether the address is https, or plain http of this very machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


class Entry(BaseModel):
    """One public file of weights.

    Attributes:
        name: What the commands and `init.weights` call it.
        file: Name of the file, in the cache and as published (some networks are told apart by it).
        url: Where it is fetched; None where no program can.
        page: Where its publisher tells of it.
        sha256: 64 hex digits; None where the publisher names none.
        sha256_starts: The first digits, as the publisher's file name has them.
        md5_starts: Likewise of md5.
        size: Bytes; None where unknown.
        size_mib: As the publisher rounds it, in 2^20 bytes.
        licence: As the publisher states it, or that none is stated.
        licence_source: Where.
        classes: Which names its labels have; `imagenet` for backbones alone.
        architecture: The network in words.
        models: Models of vertinst that take it.
        packaged: It is part of vertinst and never fetched.
        note: What else must be known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    file: Name
    url: str | None
    page: Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    sha256_starts: Annotated[str, Field(pattern="^[0-9a-f]{6,63}$")] | None = None
    md5_starts: Annotated[str, Field(pattern="^[0-9a-f]{6,32}$")] | None = None
    size: Annotated[int, Field(gt=0)] | None
    size_mib: Annotated[float, Field(gt=0)] | None = None
    licence: Text
    licence_source: Text
    classes: Literal["coco", "pascal", "imagenet", "spine"]
    architecture: Text
    # YAML has lists alone.
    models: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    packaged: bool = False
    note: Text

    @model_validator(mode="after")
    def _can_be_fetched_and_checked(self) -> Self:
        if self.url is not None and not may_fetch(self.url):
            raise ValueError(f"url must begin with https://, got {self.url}")
        if self.packaged and (self.url is not None or self.sha256 is None):
            raise ValueError("packaged weights must have their sha256 and no url")
        return self

    @property
    def most_bytes(self) -> int:
        """More than this is not the file."""
        if self.size is not None:
            return self.size
        return MAX_BYTES if self.size_mib is None else int(self.size_mib * 1.01 * MIB)


class Manifest(BaseModel):
    """All that is known; names and files are different ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: tuple[Entry, ...]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for what, found in (("name", [e.name for e in self.weights]), ("file", [e.file.lower() for e in self.weights])):
            twice = sorted({text for text in found if found.count(text) > 1})
            if twice:
                raise ValueError(f"each {what} must stand once, got twice: {', '.join(twice)}")
        return self

    def get(self, name: str) -> Entry | None:
        """The entry of that name, if there is one."""
        return next((entry for entry in self.weights if entry.name == name), None)

    def named(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            CheckpointError: There is none; the nearest names are given.
        """
        entry = self.get(name)
        if entry is None:
            raise CheckpointError(
                "no public weights of this name are known",
                where=ascii(name)[1:-1][:120],
                fix=f"{self.guess(name)}See `vertinst weights list`.",
            )
        return entry

    def guess(self, name: str) -> str:
        """A question and a blank: whether entries were meant whose names are near; empty if there are none."""
        near = difflib.get_close_matches(name, [e.name for e in self.weights], n=3, cutoff=0.5)
        return f"Did you mean {' or '.join(near)}? " if near else ""


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ConfigError: It is missing, not YAML, or an entry is incomplete or wrong.
    """
    settings, where = read_settings(str(path))
    return check_settings(Manifest, settings, where)


@cache
def packaged_manifest() -> Manifest:
    """The manifest that comes with vertinst.

    Raises:
        ConfigError: It is damaged.
    """
    return read_manifest(Path(str(resources.files("vertinst.weights") / "manifest.yaml")))
