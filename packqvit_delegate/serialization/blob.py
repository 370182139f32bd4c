"""The processed bytes of a delegate: a header, then the plan (backend_cpp/src/blob.h reads the same)."""

from __future__ import annotations

import struct
import zlib

from ..errors import PlanError

MAGIC = b"PQVITBLB"
PLAN_VERSION = 5
_HEADER = struct.Struct("<8sIIQII")  # magic, version, header size, plan size, plan CRC-32, reserved


def wrap_plan(plan: bytes) -> bytes:
    """Puts the header before a serialised plan."""
    return _HEADER.pack(MAGIC, PLAN_VERSION, _HEADER.size, len(plan), zlib.crc32(plan), 0) + plan


def unwrap_plan(blob: bytes) -> bytes:
    """The plan behind the header.

    Raises:
        PlanError: Foreign, newer, truncated or corrupt bytes.
    """
    if len(blob) < _HEADER.size or not blob.startswith(MAGIC):
        raise PlanError("these are not the processed bytes of a PackQViT delegate")
    _, version, header_size, plan_size, checksum, _ = _HEADER.unpack_from(blob)
    if version != PLAN_VERSION:
        raise PlanError(f"the plan has version {version}, this package reads {PLAN_VERSION}; use matching releases")
    plan = blob[header_size : header_size + plan_size]
    if header_size != _HEADER.size or len(plan) != plan_size or zlib.crc32(plan) != checksum:
        raise PlanError("the plan is truncated or corrupt; export the model again")
    return plan
