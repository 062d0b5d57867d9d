"""Machine instructions that numba does not offer, and the three kinds of compiled functions.

Why LLVM: wide compares, multiplications to 128 bits and prefetches have no numpy spelling that numba compiles to one
instruction.  Arrays are read in place, without bounds checks and without numba's support for negative indices; the
caller guarantees the bounds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic

from worldclip.kernels.compiled import compiled
from worldclip.kernels.compiled import inlined as inlined
from worldclip.kernels.compiled import inner as inner

kernel = compiled


def is_compiled(function) -> bool:
    """Return whether numba's cache on disk holds a kernel as its source and this processor are now.

    numba has no public call for it; where its internals differ, the answer is yes: then nothing is announced.
    """
    try:
        return bool(function._cache._cache_file._load_index())
    except (AttributeError, OSError):
        return True


_I1, _I8, _I32, _I64, _I128 = (ir.IntType(bits) for bits in (1, 8, 32, 64, 128))
RANKED = 16  # int32 that `count_smaller` ranks at once: one AVX-512 register, or two of AVX2
LANES = 16  # float32 that are added or multiplied at once, and hashes
FNV_STEP = 16777619  # FNV-1a's prime


def _pointer(context, builder, array_type, array, at, to):
    """Return the address of array[at] as a pointer to the LLVM type `to`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


def _spread(builder, value, count):
    """Return a vector of `count` copies of `value`."""
    vector = ir.VectorType(value.type, count)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, count), [0] * count))


def _emits(result: types.Type, *kinds: types.Type | None) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes a function of compiled code from one that emits its instructions.

    kinds: types of the arguments; None is an array of whatever type.  The function is called with (context, builder,
    signature, the arguments' values) and returns the value of the result; of `types.none` nothing.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def infer(typing_context: Any, *types_of_values: types.Type) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                returned = emit(context, builder, signature, *values)
                return context.get_dummy_value() if result is types.none else returned

            return result(*(kind or actual for kind, actual in zip(kinds, types_of_values, strict=True))), codegen

        functools.update_wrapper(infer, emit)
        # numba calls by the signature: its own context, then the arguments of the compiled function
        _, _, _, *arguments = inspect.signature(emit).parameters.values()
        context = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        infer.__signature__ = inspect.Signature([context, *arguments])  # type: ignore[attr-defined]
        return intrinsic(infer)

    return decorate


@intrinsic
def as_read_only(typing_context, array):
    """Return the array as one that kernels only read, so that they are compiled once, not per kind of array."""

    def codegen(context, builder, signature, arguments):
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])

    return array.copy(readonly=True)(array), codegen


_INT, _UINT, _NOTHING = types.int64, types.uint64, types.none
_ARRAY = None


@_emits(_UINT, _ARRAY, _INT)
def load_8(context, builder, signature, array, at):
    """Return the 8 bytes at array[at:] as a uint64, the first one lowest (array: uint8; the machine: little-endian)."""
    return builder.load(_pointer(context, builder, signature.args[0], array, at, _I64), align=1)


@_emits(_UINT, _ARRAY, _INT)
def load_byte(context, builder, signature, words, at):
    """Return byte `at` of a uint64 array as a uint64 (the machine: little-endian)."""
    pointer = _pointer(context, builder, signature.args[0], words, _I64(0), _I8)
    return builder.zext(builder.load(builder.gep(pointer, [at]), align=1), _I64)


@_emits(_NOTHING, _ARRAY, _INT, _UINT)
def store_8(context, builder, signature, array, at, word):
    """Write a uint64 to array[at:] as 8 bytes, the lowest one first (array: uint8)."""
    builder.store(word, _pointer(context, builder, signature.args[0], array, at, _I64), align=1)


@_emits(types.UniTuple(_UINT, 2), _ARRAY, _INT)
def load_pair(context, builder, signature, pairs, at):
    """Return (pairs[2 * at], pairs[2 * at + 1]) of a uint64 array."""
    pointer = _pointer(context, builder, signature.args[0], pairs, builder.shl(at, _I64(1)), _I64)
    words = [builder.load(builder.gep(pointer, [_I64(k)]), align=8) for k in range(2)]
    return context.make_tuple(builder, signature.return_type, words)


@_emits(_NOTHING, _ARRAY, _INT, _UINT, _UINT)
def store_pair(context, builder, signature, pairs, at, first, second):
    """Write two uint64 to pairs[2 * at] and pairs[2 * at + 1]."""
    pointer = _pointer(context, builder, signature.args[0], pairs, builder.shl(at, _I64(1)), _I64)
    builder.store(first, pointer, align=8)
    builder.store(second, builder.gep(pointer, [_I64(1)]), align=8)


@_emits(_INT, _UINT)
def trailing_zeros(context, builder, signature, word):
    """Return the number of zeros below a uint64's lowest set bit; 64 if none is set."""
    return builder.cttz(word, _I1(0))


@_emits(_INT, _UINT)
def count_ones(context, builder, signature, word):
    """Return the number of set bits of a uint64."""
    return builder.ctpop(word)


def _product(builder, a, b):
    """Return the lower and the upper half of the product of two uint64."""
    whole = builder.mul(builder.zext(a, _I128), builder.zext(b, _I128))
    return builder.trunc(whole, _I64), builder.trunc(builder.lshr(whole, _I128(64)), _I64)


@_emits(_UINT, _UINT, _UINT)
def multiply_high(context, builder, signature, a, b):
    """Return the upper half of the 128-bit product of two uint64."""
    return _product(builder, a, b)[1]


@_emits(_UINT, _UINT, _UINT)
def mix(context, builder, signature, a, b):
    """Return the xor of both halves of the 128-bit product of two uint64.

    The step of wyhash: one multiplication spreads every bit of a and b, provided that neither is mostly zeros.
    https://github.com/wangyi-fudan/wyhash
    """
    return builder.xor(*_product(builder, a, b))


@_emits(_NOTHING, _ARRAY, _INT)
def prefetch(context, builder, signature, array, at):
    """Request the cache line of array[at] without waiting for it."""
    pointer = _pointer(context, builder, signature.args[0], array, at, _I8)
    function_type = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    hint = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], function_type)
    builder.call(hint, [pointer, _I32(0), _I32(3), _I32(1)])  # arguments: read, keep in all caches, data


def _byte_mask(context, builder, signature, arguments, ranges, lowered=()):
    """Return 64 bits, one for each of the bytes at array[at:]: whether it is in one of the ranges of characters.

    x in [first, last] is x - first <= last - first without sign, so a range costs one compare.
    """
    bytes_64 = ir.VectorType(_I8, 64)

    def spread(byte):
        return ir.Constant(bytes_64, [byte] * 64)

    text = builder.load(_pointer(context, builder, signature.args[0], *arguments, bytes_64), align=1)
    is_in_range = ir.Constant(ir.VectorType(_I1, 64), [0] * 64)
    for first, last in ranges:
        values = builder.or_(text, spread(0x20)) if (first, last) in lowered else text
        distance = builder.sub(values, spread(ord(first)))
        is_in_range = builder.or_(is_in_range, builder.icmp_unsigned("<=", distance, spread(ord(last) - ord(first))))
    return builder.bitcast(is_in_range, _I64)


@_emits(_UINT, _ARRAY, _INT)
def alphanumeric_mask(context, builder, signature, array, at):
    """Return a mask of 64 bits: bit k is set if array[at + k] is an ASCII letter or digit (array: uint8)."""
    return _byte_mask(context, builder, signature, (array, at), [("a", "z"), ("0", "9")], lowered=[("a", "z")])


@_emits(_UINT, _ARRAY, _INT)
def blank_mask(context, builder, signature, array, at):
    """Return a mask of 64 bits: bit k is set if array[at + k] is a blank to fastText (array: uint8)."""
    return _byte_mask(context, builder, signature, (array, at), [(" ", " "), ("\t", "\r"), ("\0", "\0")])


@_emits(_NOTHING, _ARRAY, _INT, _INT, _INT, _ARRAY, _INT)
def count_smaller(context, builder, signature, values, start, end, at, ranks, ranks_at):
    """Write to ranks[ranks_at:] how many of values[start:end] are smaller than each of RANKED values from `at` on.

    All are int32.
    """
    vector = ir.VectorType(_I32, RANKED)
    ranked = builder.load(_pointer(context, builder, signature.args[0], values, at, vector), align=4)
    total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * RANKED))
    with cgutils.for_range(builder, end, start=start) as loop:
        pointer = _pointer(context, builder, signature.args[0], values, loop.index, _I32)
        is_smaller = builder.icmp_signed("<", _spread(builder, builder.load(pointer, align=4), RANKED), ranked)
        builder.store(builder.sub(builder.load(total), builder.sext(is_smaller, vector)), total)
    pointer = _pointer(context, builder, signature.args[4], ranks, ranks_at, vector)
    builder.store(builder.load(total), pointer, align=4)


@_emits(_NOTHING, _ARRAY, _INT, _INT, _ARRAY, _INT, _INT)
def hash_lanes(context, builder, signature, hashes, source, target, chars, at, shift):
    """Hash one more byte of LANES characters: FNV-1a from hashes[source:] to hashes[target:], both uint32.

    The byte is chars[at:] >> shift, sign-extended; where it is 0, the character has no such byte and the hash stays.
    """
    vector = ir.VectorType(_I32, LANES)
    before = builder.load(_pointer(context, builder, signature.args[0], hashes, source, vector), align=4)
    packed = builder.load(_pointer(context, builder, signature.args[3], chars, at, vector), align=4)
    shifted = builder.lshr(packed, _spread(builder, builder.trunc(shift, _I32), LANES))
    byte = builder.sext(builder.trunc(shifted, ir.VectorType(_I8, LANES)), vector)
    hashed = builder.mul(builder.xor(before, byte), ir.Constant(vector, [FNV_STEP] * LANES))
    has_byte = builder.icmp_unsigned("!=", byte, ir.Constant(vector, [0] * LANES))
    pointer = _pointer(context, builder, signature.args[0], hashes, target, vector)
    builder.store(builder.select(has_byte, hashed, before), pointer, align=4)


@_emits(_NOTHING, _ARRAY, _INT, _ARRAY, _INT)
def add_lanes(context, builder, signature, total, at, values, first):
    """Compute total[at : at + LANES] += values[first : first + LANES] over the flat arrays; float32."""
    vector = ir.VectorType(ir.FloatType(), LANES)
    target = _pointer(context, builder, signature.args[0], total, at, vector)
    source = _pointer(context, builder, signature.args[2], values, first, vector)
    builder.store(builder.fadd(builder.load(target, align=4), builder.load(source, align=1)), target, align=4)


@_emits(_NOTHING, _ARRAY, _INT, _ARRAY, _INT, _INT, _ARRAY, _INT, _INT)
def add_rows_lanes(context, builder, signature, total, at, values, width, first, rows, start, end):
    """Compute total[at : at + LANES] += values[row, first : first + LANES] of each row of rows[start:end], in order.

    values: float32 rows of `width`; rows: int32.  The sum stays in a register: through memory each row waits for the
    one before it.
    """
    vector = ir.VectorType(ir.FloatType(), LANES)
    target = _pointer(context, builder, signature.args[0], total, at, vector)
    sums = cgutils.alloca_once_value(builder, builder.load(target, align=4))
    with cgutils.for_range(builder, end, start=start) as loop:
        row = builder.load(_pointer(context, builder, signature.args[5], rows, loop.index, _I32), align=4)
        place = builder.add(builder.mul(builder.sext(row, _I64), width), first)
        source = _pointer(context, builder, signature.args[2], values, place, vector)
        builder.store(builder.fadd(builder.load(sums), builder.load(source, align=4)), sums)
    builder.store(builder.load(sums), target, align=4)


@_emits(types.float32, _ARRAY, _INT, _ARRAY, _INT)
def dot_lanes(context, builder, signature, a, at, b, first):
    """Return the dot product of a[at : at + LANES] and b[first : first + LANES] of the flat arrays; float32."""
    vector = ir.VectorType(ir.FloatType(), LANES)
    left = builder.load(_pointer(context, builder, signature.args[0], a, at, vector), align=1)
    right = builder.load(_pointer(context, builder, signature.args[2], b, first, vector), align=1)
    # The upper half is added to the lower one until one value is left: wide instructions, in an order that no
    # processor changes (LLVM's own reduction may choose another).
    sums = builder.fmul(left, right)
    for half in (8, 4, 2, 1):
        lanes = ir.VectorType(_I32, half)
        lower = builder.shuffle_vector(sums, sums, ir.Constant(lanes, list(range(half))))
        upper = builder.shuffle_vector(sums, sums, ir.Constant(lanes, list(range(half, 2 * half))))
        sums = builder.fadd(lower, upper)
    return builder.extract_element(sums, _I32(0))
