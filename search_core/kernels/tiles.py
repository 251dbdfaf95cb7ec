"""Vector registers for Numba kernels: a tile is a few rows of lanes that stay in registers.

Numba's loop vectoriser leaves depthwise loops scalar (4 GFLOP/s on one core where 87 are possible), so the kernels say
which values share a register. LLVM maps lanes to whatever the machine has: AVX-512, AVX2 or NEON, always without a
compiler at hand.

Kernels take addresses of tensors as integers and `lanes`, a tuple whose length is the number of lanes: Numba
specialises on it as it does on types. All functions here are expanded in place; offsets and strides count elements.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

#: Changes with every kernel's code: Numba notices changes in the file of a cached function only, not in those it calls.
_SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in [Path(__file__), *sorted(Path(__file__).parent.glob("native_*.py"))])
).hexdigest()[:12]


def kernel(function: Any) -> Any:
    """Compile a function that runs without the interpreter's lock; the machine code is kept on disk."""
    function.__qualname__ += f"_{_SOURCES}"  # part of the name of the file
    return njit(nogil=True, cache=True, error_model="numpy")(function)


class Tile(types.Type):
    """`rows` vectors of `lanes` numbers."""

    def __init__(self, dtype: Any, rows: int, lanes: int) -> None:
        self.dtype, self.rows, self.lanes = dtype, rows, lanes
        super().__init__(name=f"Tile({dtype}, {rows}, {lanes})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile) -> None:
        element = ir.FloatType() if tile.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, tile, ir.ArrayType(ir.VectorType(element, tile.lanes), tile.rows))


def _vector_pointer(builder: Any, pointer: Any, offset: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def _load(builder: Any, pointer: Any, offset: Any, vector: Any) -> Any:
    return builder.load(_vector_pointer(builder, pointer, offset, vector), align=_size(vector.element))


def _size(element: Any) -> int:
    return 4 if isinstance(element, ir.FloatType) else 8


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first,
        ir.Constant(vector, ir.Undefined),
        ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count),
    )


def _fma(builder: Any, factor: Any, other: Any, term: Any) -> Any:
    vector = term.type
    name = f"llvm.fma.v{vector.count}f{8 * _size(vector.element)}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, (vector,) * 3), name)
    return builder.call(function, (factor, other, term))


def _constant(rows: Any) -> int | None:
    """A number known when the kernel is compiled: a literal, or the length of a tuple."""
    if isinstance(rows, types.BaseTuple):
        return int(rows.count)
    return int(rows.literal_value) if isinstance(rows, types.IntegerLiteral) else None


def _offset(builder: Any, offset: Any, stride: Any, row: int) -> Any:
    return builder.add(offset, builder.mul(stride, ir.Constant(stride.type, row)))


@intrinsic
def pointer(_: Any, address: Any, like: Any) -> Any:
    """Pointer to numbers of the dtype of the array `like`, from an integer address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.intp, like), generate


@intrinsic
def zeros(_: Any, source: Any, rows: Any, lanes: Any) -> Any:
    """A tile of zeros of the dtype of the pointer `source`; `rows` is a literal or a tuple of that length."""
    if (num_rows := _constant(rows)) is None:
        return None
    tile = Tile(source.dtype, num_rows, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), None)

    return tile(source, rows, lanes), generate


@intrinsic
def load(_: Any, source: Any, offset: Any, stride: Any, rows: Any, lanes: Any) -> Any:
    """Tile whose row r is read at `offset + r * stride`; `rows` is a literal or a tuple of that length."""
    if (num_rows := _constant(rows)) is None:
        return None
    tile = Tile(source.dtype, num_rows, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, offset, stride = arguments[:3]
        result = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for row in range(tile.rows):
            at = _offset(builder, offset, stride, row)
            result = builder.insert_value(result, _load(builder, pointer, at, result.type.element), row)
        return result

    return tile(source, types.intp, types.intp, rows, lanes), generate


@intrinsic
def broadcast(_: Any, like: Any, scalar: Any, lanes: Any) -> Any:
    """One row of one value, as a number of the dtype of the array `like`."""
    tile = Tile(like.dtype, 1, lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = context.get_value_type(tile)
        number = context.cast(builder, arguments[1], signature.args[1], like.dtype)
        return builder.insert_value(ir.Constant(value, ir.Undefined), _splat(builder, number, value.element), 0)

    return tile(like, scalar, lanes), generate


@intrinsic
def store(_: Any, target: Any, offset: Any, stride: Any, tile: Any) -> Any:
    """Write row r of the tile at `offset + r * stride`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, offset, stride, value = arguments
        vector = value.type.element
        for row in range(tile.rows):
            at = _vector_pointer(builder, pointer, _offset(builder, offset, stride, row), vector)
            builder.store(builder.extract_value(value, row), at, align=_size(vector.element))
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp, tile), generate


@intrinsic
def add_vectors(_: Any, tile: Any, source: Any, offset: Any, stride: Any, factor: Any) -> Any:
    """Add to row r the vector at `offset + r * stride`, times the one row of `factor`, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result, pointer, offset, stride, factor = arguments
        vector = builder.extract_value(factor, 0)
        for row in range(tile.rows):
            read = _load(builder, pointer, _offset(builder, offset, stride, row), vector.type)
            result = builder.insert_value(result, _fma(builder, read, vector, builder.extract_value(result, row)), row)
        return result

    return tile(tile, source, types.intp, types.intp, factor), generate


@intrinsic
def add_scalars(_: Any, tile: Any, source: Any, offset: Any, stride: Any, factor: Any) -> Any:
    """Add to row r the number at `offset + r * stride` times the one row of `factor`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result, pointer, offset, stride, factor = arguments
        vector = builder.extract_value(factor, 0)
        for row in range(tile.rows):
            scalar = builder.load(builder.gep(pointer, [_offset(builder, offset, stride, row)]))
            read = _splat(builder, scalar, vector.type)
            result = builder.insert_value(result, _fma(builder, read, vector, builder.extract_value(result, row)), row)
        return result

    return tile(tile, source, types.intp, types.intp, factor), generate


def _elementwise(operation: str) -> Any:
    def typer(_: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            result = arguments[0]
            for row in range(left.rows):
                values = [builder.extract_value(argument, row) for argument in arguments]
                result = builder.insert_value(result, getattr(builder, operation)(*values), row)
            return result

        return left(left, right), generate

    return intrinsic(typer)


add = _elementwise("fadd")
subtract = _elementwise("fsub")
multiply = _elementwise("fmul")


@intrinsic
def where_positive(_: Any, condition: Any, value: Any) -> Any:
    """`value` where `condition` is above 0 or NaN, else 0; of a tile with itself this is its ReLU."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = arguments[1]
        for row in range(condition.rows):
            tested, kept = (builder.extract_value(argument, row) for argument in arguments)
            zero = ir.Constant(tested.type, None)
            is_not_positive = builder.fcmp_ordered("<=", tested, zero)
            result = builder.insert_value(result, builder.select(is_not_positive, zero, kept), row)
        return result

    return value(condition, value), generate


@intrinsic
def where_equal(_: Any, left: Any, right: Any, value: Any) -> Any:
    """`value` where `left` equals `right`, else 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = arguments[2]
        for row in range(value.rows):
            a, b, kept = (builder.extract_value(argument, row) for argument in arguments)
            is_equal = builder.fcmp_ordered("==", a, b)
            result = builder.insert_value(result, builder.select(is_equal, kept, ir.Constant(kept.type, None)), row)
        return result

    return value(left, right, value), generate


@intrinsic
def maximum(_: Any, left: Any, right: Any) -> Any:
    """The larger one, lane by lane; NaN wins."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = arguments[0]
        for row in range(left.rows):
            a, b = (builder.extract_value(argument, row) for argument in arguments)
            takes_b = builder.or_(builder.fcmp_ordered(">", b, a), builder.fcmp_unordered("uno", b, b))
            result = builder.insert_value(result, builder.select(takes_b, b, a), row)
        return result

    return left(left, right), generate
