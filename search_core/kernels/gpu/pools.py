"""The pools of a source with their batch norm in two kernels, and its backward pass in two.

Of a maximum its place in the window is kept, 0 to 8, for the backward pass; ties and NaN go to the place that PyTorch
takes. Sums over pixels are formed in chunks.

Shape suffixes: as in `search_core.kernels.pools`; T chunks of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from search_core.kernels.gpu import launch as launching
from search_core.kernels.gpu.depthwise import pixel_at

_NUMBERS_OF_A_PROGRAM = 512
_MAX_CHUNKS = 64


@triton.jit
def _store_sums(sums_ptr, place, first, second, channel, C: tl.constexpr):
    tl.store(sums_ptr + 2 * place * C + channel, first, mask=channel < C)
    tl.store(sums_ptr + (2 * place + 1) * C + channel, second, mask=channel < C)


@triton.jit
def _sums_of(sums_ptr, own, num, num_chunks, channel, C: tl.constexpr, PADDED: tl.constexpr):
    """Both sums of one pool over all chunks."""
    first, second = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32)
    for chunk in range(num_chunks):
        place = sums_ptr + 2 * (chunk * num + own) * C + channel
        first += tl.load(place, mask=channel < C, other=0.0)
        second += tl.load(place + C, mask=channel < C, other=0.0)
    return first, second


@triton.jit
def _moved(count, mean, squares, value, mask, num):
    """Mean of `count` values and their squared deviations from it, with `num` values more (Chan et al., 1979)."""
    own = tl.sum(tl.where(mask, value, 0.0), 0) / tl.maximum(num, 1.0)
    deviation = tl.where(mask, value - own[None, :], 0.0)
    total, apart = tl.maximum(count + num, 1.0), own - mean
    squares += tl.sum(deviation * deviation, 0) + apart * apart * (count * num / total)
    return mean + apart * (num / total), squares


@triton.jit
def pool_kernel(
    x_ptr, pools_ptr, places_ptr, sums_ptr, num_pixels, pixels_of_a_chunk, height, width, rows, columns,
    C: tl.constexpr, PADDED: tl.constexpr, NUM: tl.constexpr, MAXIMUM: tl.constexpr, AVERAGE: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk of output pixels: pools, and of each pool the mean and the squared deviations from it."""
    channel = tl.arange(0, PADDED)
    known, start, num_before = channel < C, tl.program_id(0) * pixels_of_a_chunk, 0.0
    of_maxima, squares_of_maxima = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32)
    of_means, squares_of_means = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32)
    for first in range(start, start + pixels_of_a_chunk, BLOCK):
        pixel = first + tl.arange(0, BLOCK)
        image, row, column = pixel // (rows * columns), pixel // columns % rows, pixel % columns
        best, total = tl.full((BLOCK, PADDED), float("-inf"), tl.float32), tl.zeros((BLOCK, PADDED), tl.float32)
        place, count = tl.full((BLOCK, PADDED), -1, tl.int32), tl.zeros((BLOCK,), tl.float32)
        for i in tl.static_range(3):
            for j in tl.static_range(3):
                source, inside = pixel_at(
                    row * STRIDE + i - 1, column * STRIDE + j - 1, image, height, width, pixel < num_pixels
                )
                at, mask = x_ptr + source[:, None] * C + channel[None, :], inside[:, None] & known[None, :]
                value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
                wins = mask & ((value > best) | (value != value) | (place < 0))
                best, place = tl.where(wins, value, best), tl.where(wins, i * 3 + j, place)
                total += value
                count += inside.to(tl.float32)
        mask = (pixel < num_pixels)[:, None] & known[None, :]
        at = pixel[:, None] * C + channel[None, :]
        num = tl.sum((pixel < num_pixels).to(tl.float32), 0)
        if MAXIMUM >= 0:
            tl.store(pools_ptr + MAXIMUM * num_pixels * C + at, best, mask=mask)
            tl.store(places_ptr + at, place.to(tl.int8), mask=mask)
            of_maxima, squares_of_maxima = _moved(num_before, of_maxima, squares_of_maxima, best, mask, num)
        if AVERAGE >= 0:
            mean = total / tl.maximum(count, 1.0)[:, None]
            tl.store(pools_ptr + AVERAGE * num_pixels * C + at, mean, mask=mask)
            of_means, squares_of_means = _moved(num_before, of_means, squares_of_means, mean, mask, num)
        num_before += num
    if MAXIMUM >= 0:
        _store_sums(sums_ptr, tl.program_id(0) * NUM + MAXIMUM, of_maxima, squares_of_maxima, channel, C)
    if AVERAGE >= 0:
        _store_sums(sums_ptr, tl.program_id(0) * NUM + AVERAGE, of_means, squares_of_means, channel, C)


@triton.jit
def norm_kernel(
    pools_ptr, sums_ptr, means_ptr, variances_ptr, scales_ptr, num_chunks, pixels_of_a_chunk, num_pixels, epsilon,
    C: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels (axis 0) of one pool (axis 1): norm in place; the first block writes the statistics."""
    pixel, channel, own = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED), tl.program_id(1)
    known = channel < C
    mean, squares, num_before = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32), 0.0
    for chunk in range(num_chunks):
        place = sums_ptr + 2 * (chunk * tl.num_programs(1) + own) * C + channel
        num = tl.minimum(num_pixels - chunk * pixels_of_a_chunk, pixels_of_a_chunk).to(tl.float32)
        apart = tl.load(place, mask=known, other=0.0) - mean
        squares += tl.load(place + C, mask=known, other=0.0) + apart * apart * (num_before * num / (num_before + num))
        mean += apart * (num / (num_before + num))
        num_before += num
    variance = squares / num_pixels
    scale = 1.0 / tl.sqrt(variance + epsilon)
    if tl.program_id(0) == 0:
        tl.store(means_ptr + own * C + channel, mean, mask=known)
        tl.store(variances_ptr + own * C + channel, variance, mask=known)
        tl.store(scales_ptr + own * C + channel, scale, mask=known)
    mask = (pixel < num_pixels)[:, None] & known[None, :]
    at = pools_ptr + own * num_pixels * C + pixel[:, None] * C + channel[None, :]
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    tl.store(at, (value - mean[None, :]) * scale[None, :], mask=mask)


@triton.jit
def gradient_sums_kernel(
    pools_ptr, gradients, sums_ptr, num_pixels, pixels_of_a_chunk,
    C: tl.constexpr, PADDED: tl.constexpr, NUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk (axis 0) of one pool (axis 1): sums of the gradient g, and of g y with the normalised pool y."""
    channel, own, start = tl.arange(0, PADDED), tl.program_id(1), tl.program_id(0) * pixels_of_a_chunk
    for pool in tl.static_range(NUM):
        if own == pool:
            sums, products = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32)
            for first in range(start, start + pixels_of_a_chunk, BLOCK):
                pixel = first + tl.arange(0, BLOCK)
                mask = (pixel < num_pixels)[:, None] & (channel < C)[None, :]
                at = pixel[:, None] * C + channel[None, :]
                gradient = tl.load(gradients[pool] + at, mask=mask, other=0.0).to(tl.float32)
                y = tl.load(pools_ptr + pool * num_pixels * C + at, mask=mask, other=0.0).to(tl.float32)
                sums += tl.sum(gradient, 0)
                products += tl.sum(gradient * y, 0)
            _store_sums(sums_ptr, tl.program_id(0) * NUM + pool, sums, products, channel, C)


@triton.jit
def _of_pool(pools_ptr, gradient_ptr, at, mask, scale, mean, product, own, num_pixels, C: tl.constexpr):
    """Gradient of a pool before its norm."""
    gradient = tl.load(gradient_ptr + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(pools_ptr + own * num_pixels * C + at, mask=mask, other=0.0).to(tl.float32)
    return tl.where(mask, scale[None, :] * (gradient - mean[None, :] - y * product[None, :]), 0.0)


@triton.jit
def backward_kernel(
    pools_ptr, gradients, places_ptr, scales_ptr, sums_ptr, of_x_ptr, num_chunks, num_inputs, num_pixels, height,
    width, rows, columns,
    C: tl.constexpr, PADDED: tl.constexpr, NUM: tl.constexpr, MAXIMUM: tl.constexpr, AVERAGE: tl.constexpr,
    STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of input pixels: from each window that one lies in, what its maximum and its mean send back."""
    pixel, channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)
    image, row, column = pixel // (height * width), pixel // width % height, pixel % width
    known, total = channel < C, tl.zeros((BLOCK, PADDED), tl.float32)
    for pool in tl.static_range(NUM):
        scale = tl.load(scales_ptr + pool * C + channel, mask=known, other=0.0)
        sums, products = _sums_of(sums_ptr, pool, NUM, num_chunks, channel, C, PADDED)
        mean, product = sums / num_pixels, products / num_pixels
        for i in range(3):
            for j in tl.static_range(3):
                y, x = row + 1 - i, column + 1 - j
                is_read = (pixel < num_inputs) & (y >= 0) & (x >= 0) & (y % STRIDE == 0) & (x % STRIDE == 0)
                source, inside = pixel_at(y // STRIDE, x // STRIDE, image, rows, columns, is_read)
                at, mask = source[:, None] * C + channel[None, :], inside[:, None] & known[None, :]
                sent = _of_pool(pools_ptr, gradients[pool], at, mask, scale, mean, product, pool, num_pixels, C)
                if pool == MAXIMUM:
                    place = tl.load(places_ptr + at, mask=mask, other=-1)
                    total += tl.where(place == i * 3 + j, sent, 0.0)
                else:  # the window's pixels that there are
                    high = tl.minimum(y + 1, height - 1) - tl.maximum(y - 1, 0) + 1
                    wide = tl.minimum(x + 1, width - 1) - tl.maximum(x - 1, 0) + 1
                    total += sent / tl.maximum(high * wide, 1).to(tl.float32)[:, None]
    place = of_x_ptr + pixel[:, None] * C + channel[None, :]
    tl.store(place, total, mask=(pixel < num_inputs)[:, None] & known[None, :])


def forward(x: Tensor, names: Sequence[str], stride: int, epsilon: float) -> tuple[Tensor, ...]:
    """Normalised pools (Q, N, H', W', C), means, variances and scales (Q, C), and places of maxima."""
    x = x.contiguous()
    num_images, height, width, channels = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    pools = x.new_empty((len(names), num_images, rows, columns, channels))
    places = x.new_empty(pools.shape[1:] if "max_pool_3x3" in names else (1,), dtype=torch.int8)
    constants, (sums, chunk) = _constants(x), _chunks(pools)
    num_pixels = num_images * rows * columns
    launching.launch(
        pool_kernel, (len(sums),), x, pools, places, sums, num_pixels, chunk, height, width, rows, columns,
        **constants, **_positions(names), STRIDE=stride,
    )  # fmt: skip
    means, variances, scales = (sums.new_empty((len(names), channels)) for _ in range(3))
    launching.launch(
        norm_kernel, (triton.cdiv(num_pixels, constants["BLOCK"]), len(names)), pools, sums, means, variances,
        scales, len(sums), chunk, num_pixels, epsilon, **constants,
    )  # fmt: skip
    return pools, means, variances, scales, places


def backward(
    size: torch.Size, names: Sequence[str], stride: int, gradients: Sequence[Tensor], pools: Tensor, scales: Tensor,
    places: Tensor,
) -> Tensor:  # fmt: skip
    """Gradient of x, of shape `size`."""
    num_images, height, width, _ = size
    sent = tuple(gradient.contiguous() for gradient in gradients)
    constants, (sums, chunk) = _constants(pools), _chunks(pools)
    rows, columns = pools.shape[2:4]
    num_pixels, num_inputs = num_images * rows * columns, num_images * height * width
    launching.launch(
        gradient_sums_kernel, (len(sums), len(names)), pools, sent, sums, num_pixels, chunk, **constants, NUM=len(names)
    )
    of_x = pools.new_empty(size)
    launching.launch(
        backward_kernel, (triton.cdiv(num_inputs, constants["BLOCK"]),), pools, sent, places, scales, sums, of_x,
        len(sums), num_inputs, num_pixels, height, width, rows, columns, **constants, **_positions(names),
        STRIDE=stride,
    )  # fmt: skip
    return of_x


def _constants(x: Tensor) -> dict[str, int]:
    padded = triton.next_power_of_2(x.shape[-1])
    return {"C": x.shape[-1], "PADDED": padded, "BLOCK": max(_NUMBERS_OF_A_PROGRAM // padded, 1)}


def _positions(names: Sequence[str]) -> dict[str, int]:
    """Which pool is which, -1 for one that is not asked for."""
    found = {name: position for position, name in enumerate(names)}
    return {
        "NUM": len(names),
        "MAXIMUM": found.get("max_pool_3x3", -1),
        "AVERAGE": found.get("avg_pool_3x3", -1),
    }


def _chunks(pools: Tensor) -> tuple[Tensor, int]:
    """Room for two vectors (T, Q, 2, C), and the pixels of a chunk."""
    num_pixels, block = pools[0, ..., 0].numel(), _constants(pools)["BLOCK"]
    chunk = triton.cdiv(triton.cdiv(num_pixels, _MAX_CHUNKS), block) * block
    shape = (triton.cdiv(num_pixels, chunk), len(pools), 2, pools.shape[-1])
    return pools.new_empty(shape, dtype=torch.float32), chunk
