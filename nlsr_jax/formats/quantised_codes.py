"""Quantised numbers → floats, in the arithmetic of the libraries that wrote them.

Source: bitsandbytes 0.50, ``backends/default/ops.py`` (``_dequantize_4bit_compute``,
``_dequantize_blockwise_compute``, ``int8_vectorwise_dequant``); transformers 5.23, ``Fp8Dequantize``;
compressed-tensors 0.20, ``_dequantize``;
GPTQModel 7.7, ``_dequantize_from_codes`` and ``dequantize_gemm``.
"""

import numpy as np

NF4_CODE = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
"""The values of NF4; Source: Dettmers et al., QLoRA (2023), appendix E."""
_FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
FP4_CODE = np.concatenate([_FP4, -_FP4]).astype(np.float32) + np.float32(0)
"""The values of bitsandbytes' FP4: sign, two bits of exponent, one of mantissa."""
_INT8_SCALE = np.float32(7.874015718698502e-3)
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ's eight numbers of a word stand in it."""


def dequantise_4bit(packed: np.ndarray, absmax: np.ndarray, code: np.ndarray, blocksize: int) -> np.ndarray:
    """Return the numbers of whole blocks, the last of which may be cut.

    Args:
      packed: ``[n]`` uint8, two numbers in each, the first in the upper half.
      absmax: ``[ceil(2 n / blocksize)]`` float32, the scale of each block.
      code: ``[16]`` float32.
      blocksize: numbers in a block; even.

    Returns:
      ``[2 n]`` float32.

    >>> dequantise_4bit(np.array([0x0F], np.uint8), np.array([2.0], np.float32), NF4_CODE, 64)
    array([-2.,  2.], dtype=float32)
    """
    byte = np.arange(256)
    pairs = np.stack([code[byte >> 4], code[byte & 15]], axis=1).view(np.uint64).ravel()
    out = pairs[packed].view(np.float32)
    whole = out.size // blocksize
    out[: whole * blocksize].reshape(whole, blocksize)[...] *= absmax[:whole, None]
    if whole < absmax.size:
        out[whole * blocksize :] *= absmax[whole]
    return out


def dequantise_nested(
    absmax: np.ndarray, outer: np.ndarray, code: np.ndarray, blocksize: int, offset: float, first: int = 0
) -> np.ndarray:
    """Return scales of blocks that are quantised themselves (double quantisation).

    Args:
      absmax: ``[n]`` uint8, scales ``first`` to ``first + n`` of a weight.
      outer: float32, one scale for every ``blocksize`` of all scales.
      code: ``[256]`` float32.
      blocksize: scales in a block.
      offset: the mean that was taken off all scales.
      first: the number of the first scale.

    Returns:
      ``[n]`` float32.
    """
    blocks = np.arange(first, first + absmax.size) // blocksize
    return code[absmax] * outer[blocks] + np.float32(offset)


def dequantise_int8(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return rows of LLM.int8: ``[n, k]`` int8 and ``[n]`` float32 → ``[n, k]`` float32."""
    return rows * scales[:, None] * _INT8_SCALE


def dequantise_blocks(rows: np.ndarray, scales: np.ndarray, block: tuple[int, int], first: int = 0) -> np.ndarray:
    """Return rows of a weight with one scale for every block, such as FP8 of 128 × 128.

    Args:
      rows: ``[n, k]``, rows ``first`` to ``first + n`` of the weight, of any type.
      scales: ``[ceil(d / block rows), ceil(k / block columns)]`` of the whole weight, of the type to compute in.
      block: rows and columns of a block.
      first: the number of the first row.

    Returns:
      ``[n, k]`` of the type of ``scales``.
    """
    count, k = rows.shape
    by_row = scales[np.arange(first, first + count) // block[0]]
    columns = np.minimum(np.arange(k) // block[1], scales.shape[1] - 1)
    return _cast(rows, scales.dtype) * (by_row if scales.shape[1] == 1 else by_row[:, columns])


def _cast(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast one-byte numbers by a table, which is faster than the conversion of types of eight bits."""
    table = np.arange(256, dtype=np.uint8).view(rows.dtype)
    with np.errstate(invalid="ignore"):
        return table.astype(np.float32).astype(dtype)[rows.view(np.uint8)]


def unpack_words(words: np.ndarray, bits: int, axis: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """Return the numbers that are packed into words of 32 bits along one axis of a matrix, the lowest bits first.

    Args:
      words: ``[m, n]`` int32.
      bits: of a number; it divides 32.
      axis: 0 or 1, which is ``32 / bits`` times as long afterwards.
      order: where the numbers of a word stand in it; ``None`` for one after the other.

    Returns:
      int32 in 0 to ``2**bits - 1``.
    """
    places = np.array(order if order is not None else range(32 // bits), np.uint32) * np.uint32(bits)
    shifts = places[None, :, None] if axis == 0 else places[None, None, :]
    parts = (np.expand_dims(words.view(np.uint32), axis + 1) >> shifts) & np.uint32(2**bits - 1)
    shape = (-1, words.shape[1]) if axis == 0 else (words.shape[0], -1)
    return parts.astype(np.int32).reshape(shape)


def dequantise_groups(numbers: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return a weight of GPTQ or AWQ, whose in-features are the leading axis.

    Args:
      numbers: ``[k, d]`` int32.
      zeros, scales: ``[groups, d]``, int32 and the type to compute in.
      groups: ``[k]``, the group of each in-feature.

    Returns:
      ``[k, d]`` of the type of ``scales``.
    """
    return (numbers - zeros[groups]).astype(scales.dtype) * scales[groups]
