"""Constants of a plan: packed, and laid into segments of ExecuTorch's named data store."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch
from executorch.exir._serialize._named_data_store import NamedDataStore

import packqvit_delegate.serialization.plan_generated as fb

ALIGNMENT = 64
_OWN_SEGMENT_BYTES = 16 * 1024
"""Constants from this size on get a segment of their own, which equal constants of other methods share."""

DATA_TYPES: dict[torch.dtype, int] = {
    torch.int8: fb.DataType.Int8,
    torch.uint8: fb.DataType.UInt8,
    torch.int16: fb.DataType.Int16,
    torch.int32: fb.DataType.Int32,
    torch.float32: fb.DataType.Float32,
}


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Two's complement 4-bit codes, two to a byte.

    Args:
        codes: int8 [..., K] in [-8, 7].

    Returns:
        uint8 [..., (K + 1) // 2]; the code with the even index lies in the low nibble.
    """
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], -1)
    low, high = codes[..., 0::2].astype(np.uint8) & 0xF, codes[..., 1::2].astype(np.uint8) & 0xF
    return low | (high << 4)


def unpack_nibbles(packed: np.ndarray, length: int) -> np.ndarray:
    """Inverse of `pack_nibbles`.

    Args:
        packed: uint8 [..., (K + 1) // 2].
        length: K.

    Returns:
        int8 [..., K].
    """
    halves = np.stack([packed & 0xF, packed >> 4], -1).reshape(*packed.shape[:-1], -1).astype(np.int8)
    return np.where(halves > 7, halves - 16, halves)[..., :length].astype(np.int8)


class ConstantWriter:
    """Collects the constants of one plan."""

    def __init__(self) -> None:
        """Starts empty."""
        self.constants: list[fb.ConstantT] = []
        self._data: list[tuple[fb.ConstantT, bytes]] = []
        self._known: dict[tuple[bytes, int, tuple[int, ...], int], int] = {}

    def add(self, tensor: torch.Tensor, *, nibbles: bool = False) -> int:
        """Index of a constant; equal ones are kept once.

        Args:
            tensor: Any type of the plan.
            nibbles: Pack int8 codes of [-8, 7] two to a byte.
        """
        array = tensor.detach().contiguous().cpu().numpy()
        data = (pack_nibbles(array) if nibbles else array).tobytes()
        encoding = fb.Encoding.Nibbles if nibbles else fb.Encoding.Dense
        key = (hashlib.sha256(data).digest(), DATA_TYPES[tensor.dtype], tuple(tensor.shape), encoding)
        if key not in self._known:
            constant = fb.ConstantT()
            constant.type, constant.shape, constant.encoding = key[1], list(key[2]), encoding
            self._known[key] = len(self.constants)
            self.constants.append(constant)
            self._data.append((constant, data))
        return self._known[key]

    def write(self, store: NamedDataStore) -> list[fb.SegmentT]:
        """Lays everything into the store and fills in segments and offsets.

        Args:
            store: Takes one entry a segment; the key holds a hash of the content.
        """
        segments: list[fb.SegmentT] = []
        small = bytearray()
        in_small: list[fb.ConstantT] = []
        for constant, data in self._data:
            if len(data) >= _OWN_SEGMENT_BYTES:
                constant.segment, constant.offset = len(segments), 0
                segments.append(_write_segment(store, data))
            else:
                small.extend(b"\0" * (-len(small) % ALIGNMENT))
                constant.offset = len(small)
                in_small.append(constant)
                small.extend(data)
        if in_small:
            for constant in in_small:
                constant.segment = len(segments)
            segments.append(_write_segment(store, bytes(small) or b"\0"))
        return segments


def _write_segment(store: NamedDataStore, data: bytes) -> fb.SegmentT:
    segment = fb.SegmentT()
    segment.key = f"packqvit/{hashlib.sha256(data).hexdigest()[:32]}"
    segment.size = len(data)
    segment.crc32 = zlib.crc32(data)
    store.add_named_data(segment.key, data, alignment=ALIGNMENT)
    return segment
