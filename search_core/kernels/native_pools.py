"""Numba kernels for the 3x3 pools of one source: maximum and average of each window in one pass.

A window is clipped at the borders; the average is over the pixels inside (`count_include_pad=False`).
"""

from __future__ import annotations

from typing import Any

from search_core.kernels.tiles import (
    add,
    add_vectors,
    broadcast,
    kernel,
    load,
    maximum,
    multiply,
    pointer,
    store,
    subtract,
    where_equal,
    zeros,
)


@kernel
def forward(
    part: int, first: int, last: int, source: int, largest: int, average: int, height: int, width: int, channels: int,
    stride: int, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Both pools of the images `first` to `last` - 1.

    Args:
        part: not used, every image has its own output.
        first: first image.
        last: image after the last one.
        source: address of the input (N, H, W, C).
        largest: address of the maxima (N, H', W', C), or 0 for none.
        average: address of the averages, likewise.
        height: H.
        width: W.
        channels: C.
        stride: 1 or 2.
        like: an array of the tensors' dtype.
        lanes: a tuple as long as a register.
    """
    out_height, out_width = (height + stride - 1) // stride, (width + stride - 1) // stride
    for image in range(first, last):
        x = pointer(source + image * height * width * channels * like.itemsize, like)
        offset = image * out_height * out_width * channels * like.itemsize
        for h in range(out_height):
            top, bottom = max(h * stride - 1, 0), min(h * stride + 2, height)
            for w in range(out_width):
                left, right = max(w * stride - 1, 0), min(w * stride + 2, width)
                share = broadcast(like, 1.0 / ((bottom - top) * (right - left)), lanes)
                for c in range(0, channels, len(lanes)):
                    best = load(x, (top * width + left) * channels + c, 0, 1, lanes)
                    total = zeros(x, 1, lanes)
                    for i in range(top, bottom):
                        for j in range(left, right):
                            value = load(x, (i * width + j) * channels + c, 0, 1, lanes)
                            best = maximum(best, value)
                            total = add(total, value)
                    at = (h * out_width + w) * channels + c
                    if largest != 0:
                        store(pointer(largest + offset, like), at, 0, best)
                    if average != 0:
                        store(pointer(average + offset, like), at, 0, multiply(total, share))


@kernel
def backward(
    part: int, first: int, last: int, source: int, gradient: int, largest: int, average: int, height: int, width: int,
    channels: int, stride: int, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Add the gradient of the input; of tied maxima the first pixel in reading order gets it all, as in torch.

    Args:
        part: not used, every image has its own gradient.
        first: first image.
        last: image after the last one.
        source: address of the input (N, H, W, C).
        gradient: address of its gradient, likewise, which is added to.
        largest: address of the gradient of the maxima (N, H', W', C), or 0.
        average: address of the gradient of the averages, or 0.
        height: H.
        width: W.
        channels: C.
        stride: 1 or 2.
        like: an array of the tensors' dtype.
        lanes: a tuple as long as a register.
    """
    out_height, out_width = (height + stride - 1) // stride, (width + stride - 1) // stride
    unit = broadcast(like, 1.0, lanes)
    for image in range(first, last):
        x = pointer(source + image * height * width * channels * like.itemsize, like)
        dx = pointer(gradient + image * height * width * channels * like.itemsize, like)
        offset = image * out_height * out_width * channels * like.itemsize
        for h in range(out_height):
            top, bottom = max(h * stride - 1, 0), min(h * stride + 2, height)
            for w in range(out_width):
                left, right = max(w * stride - 1, 0), min(w * stride + 2, width)
                share = broadcast(like, 1.0 / ((bottom - top) * (right - left)), lanes)
                for c in range(0, channels, len(lanes)):
                    at = (h * out_width + w) * channels + c
                    best = load(x, (top * width + left) * channels + c, 0, 1, lanes)
                    spread, remaining = zeros(x, 1, lanes), zeros(x, 1, lanes)
                    if average != 0:
                        spread = multiply(load(pointer(average + offset, like), at, 0, 1, lanes), share)
                    if largest != 0:
                        remaining = load(pointer(largest + offset, like), at, 0, 1, lanes)
                        for i in range(top, bottom):
                            for j in range(left, right):
                                best = maximum(best, load(x, (i * width + j) * channels + c, 0, 1, lanes))
                    for i in range(top, bottom):
                        for j in range(left, right):
                            pixel = (i * width + j) * channels + c
                            share_of_pixel = add_vectors(spread, dx, pixel, 0, unit)
                            if largest != 0:
                                hit = where_equal(load(x, pixel, 0, 1, lanes), best, remaining)
                                remaining = subtract(remaining, hit)
                                share_of_pixel = add(share_of_pixel, hit)
                            store(dx, pixel, 0, share_of_pixel)


@kernel
def moments(
    part: int, first: int, last: int, maps: Any, shifts: Any, sums: Any, squares: Any, pixels: int, channels: int,
    like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Sums, and sums of squares, of shifted maps (N, P, C) over the images `first` to `last` - 1.

    Args:
        part: which part of the results to write.
        first: first image.
        last: image after the last one.
        maps: (M,) addresses.
        shifts: (M, C), subtracted from every pixel.
        sums: (parts, M, C), written.
        squares: (parts, M, C), written.
        pixels: P.
        channels: C.
        like: an array of the tensors' dtype.
        lanes: a tuple as long as a register.
    """
    for m in range(len(maps)):
        source = pointer(maps[m] + first * pixels * channels * like.itemsize, like)
        for c in range(0, channels, len(lanes)):
            shift = load(pointer(shifts[m].ctypes.data, like), c, 0, 1, lanes)
            total, square = zeros(source, 1, lanes), zeros(source, 1, lanes)
            for p in range((last - first) * pixels):
                value = subtract(load(source, p * channels + c, 0, 1, lanes), shift)
                total = add(total, value)
                square = add(square, multiply(value, value))
            store(pointer(sums[part, m].ctypes.data, like), c, 0, total)
            store(pointer(squares[part, m].ctypes.data, like), c, 0, square)
