"""Numba kernels for all depthwise convolutions of one source: ReLU and padding are done once for all of them.

A job is one convolution, a row of integers. Images are copied, rectified and padded, into scratch memory that stays in
the cache; there channels come in blocks of one register, so that all offsets but those of image rows are known when the
kernel is compiled. All offsets and strides count elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from search_core.kernels.tiles import add_vectors, kernel, load, pointer, store, where_positive, zeros

#: Columns of a job: index of its input; kernel size; dilation; addresses of the weight (C, K, K), of the output or its
#: gradient (N, H', W', C), and of the weight's gradient (parts, ...); elements from one part of the latter to the next.
INPUT, KERNEL, DILATION, WEIGHT, OUTPUT, GRADIENT, PART_STRIDE = range(7)
JOB_COLUMNS = 7


#: A tuple's length is part of its type, so a function that takes one is compiled for that length.
_ONE, _TWO, _THREE, _FIVE, _SEVEN = (0,), (0,) * 2, (0,) * 3, (0,) * 5, (0,) * 7


@njit(inline="always")
def _filter_tile(
    padded: Any, start: int, row: int, weight: Any, out: Any, at: int, pixel: int, rows: int, kernel: int,
    dilation: int, stride: int, accumulate: bool, lanes: Any,
) -> None:  # fmt: skip
    """`rows` neighbouring pixels of the output."""
    tile = load(out, at, pixel, rows, lanes) if accumulate else zeros(out, rows, lanes)
    for i in range(kernel):
        for j in range(kernel):
            tap = load(weight, (i * kernel + j) * len(lanes), 0, 1, lanes)
            at_tap = start + i * dilation * row + j * dilation * len(lanes)
            tile = add_vectors(tile, padded, at_tap, stride * len(lanes), tap)
    store(out, at, pixel, tile)


@njit(inline="always")
def _filter_rows(
    padded: Any, origin: int, row: int, weight: Any, out: Any, height: int, width: int, pixel: int, kernel: int,
    dilation: int, stride: int, accumulate: bool, lanes: Any,
) -> None:  # fmt: skip
    """One channel block of one image: `out[h, w] (+)= sum_ij padded[h s + i d, w s + j d] weight[i, j]`."""
    for h in range(height):
        start = origin + h * stride * row
        w = 0
        while w + 8 <= width:
            _filter_tile(
                padded, start + w * stride * len(lanes), row, weight, out, (h * width + w) * pixel, pixel, 8,
                kernel, dilation, stride, accumulate, lanes,
            )  # fmt: skip
            w += 8
        while w < width:
            _filter_tile(
                padded, start + w * stride * len(lanes), row, weight, out, (h * width + w) * pixel, pixel, 1,
                kernel, dilation, stride, accumulate, lanes,
            )  # fmt: skip
            w += 1


@njit
def _filter_unrolled(
    padded: Any, origin: int, row: int, weight: Any, out: Any, height: int, width: int, pixel: int, taps: Any,
    dilation: Any, accumulate: bool, lanes: Any,
) -> None:  # fmt: skip
    """Stride 1, with kernel size and dilation known when it is compiled."""
    _filter_rows(padded, origin, row, weight, out, height, width, pixel, len(taps), len(dilation), 1, accumulate, lanes)


@njit
def _filter_any(
    padded: Any, origin: int, row: int, weight: Any, out: Any, height: int, width: int, pixel: int, kernel: int,
    dilation: int, stride: int, accumulate: bool, lanes: Any,
) -> None:  # fmt: skip
    _filter_rows(padded, origin, row, weight, out, height, width, pixel, kernel, dilation, stride, accumulate, lanes)


@njit
def _filter(
    padded: Any, origin: int, row: int, weight: Any, out: Any, height: int, width: int, pixel: int, kernel: int,
    dilation: int, stride: int, accumulate: bool, lanes: Any,
) -> None:  # fmt: skip
    """As `_filter_rows`; each common combination has machine code of its own."""
    if kernel == 3 and dilation == 1 and stride == 1:
        _filter_unrolled(padded, origin, row, weight, out, height, width, pixel, _THREE, _ONE, accumulate, lanes)
    elif kernel == 5 and dilation == 1 and stride == 1:
        _filter_unrolled(padded, origin, row, weight, out, height, width, pixel, _FIVE, _ONE, accumulate, lanes)
    elif kernel == 3 and dilation == 2 and stride == 1:
        _filter_unrolled(padded, origin, row, weight, out, height, width, pixel, _THREE, _TWO, accumulate, lanes)
    elif kernel == 5 and dilation == 2 and stride == 1:
        _filter_unrolled(padded, origin, row, weight, out, height, width, pixel, _FIVE, _TWO, accumulate, lanes)
    else:
        _filter_any(padded, origin, row, weight, out, height, width, pixel, kernel, dilation, stride, accumulate, lanes)


@njit(inline="always")
def _spread_tile(
    padded: Any, row: int, weight: Any, out: Any, at: int, a: int, b: int, shift_h: int, shift_w: int, radius: int,
    kernel: int, dilation: int, rows: int, lanes: Any,
) -> None:  # fmt: skip
    tile = load(out, at, 2 * len(lanes), rows, lanes)
    for i in range(kernel):
        if (shift_h - i * dilation) % 2 == 0:
            h = a + radius + ((shift_h - i * dilation) >> 1)
            for j in range(kernel):
                if (shift_w - j * dilation) % 2 == 0:
                    w = b + radius + ((shift_w - j * dilation) >> 1)
                    tap = load(weight, (i * kernel + j) * len(lanes), 0, 1, lanes)
                    tile = add_vectors(tile, padded, h * row + w * len(lanes), len(lanes), tap)
    store(out, at, 2 * len(lanes), tile)


@njit
def _spread(
    padded: Any, radius: int, row: int, weight: Any, out: Any, height: int, width: int, kernel: int, dilation: int,
    lanes: Any,
) -> None:  # fmt: skip
    """Gradient of the input at stride 2: pixels of equal parity in rows and columns meet the same taps.

    Output pixel (a, b) read the inputs (2 a + i d - r, 2 b + j d - r), r half the size of the dilated kernel.
    """
    half = kernel // 2 * dilation
    for odd_h in range(2):
        for odd_w in range(2):
            num_w = (width + 1 - odd_w) // 2
            for a in range((height + 1 - odd_h) // 2):
                at = ((2 * a + odd_h) * width + odd_w) * len(lanes)
                b = 0
                while b + 8 <= num_w:
                    _spread_tile(
                        padded, row, weight, out, at + 2 * b * len(lanes), a, b, odd_h + half, odd_w + half, radius,
                        kernel, dilation, 8, lanes,
                    )  # fmt: skip
                    b += 8
                while b < num_w:
                    _spread_tile(
                        padded, row, weight, out, at + 2 * b * len(lanes), a, b, odd_h + half, odd_w + half, radius,
                        kernel, dilation, 1, lanes,
                    )  # fmt: skip
                    b += 1


@njit
def _correlate(
    padded: Any, origin: int, row: int, gradient: Any, grad_origin: int, grad_row: int, out: Any, height: int,
    width: int, taps: Any, dilation: int, stride: int, lanes: Any,
) -> None:  # fmt: skip
    """Add the gradient of the weight: `out[i, j] += sum_hw padded[h s + i d, w s + j d] gradient[h, w]`."""
    for i in range(len(taps)):
        tile = load(out, i * len(taps) * len(lanes), len(lanes), taps, lanes)
        for h in range(height):
            at = origin + (h * stride + i * dilation) * row
            for w in range(width):
                factor = load(gradient, grad_origin + h * grad_row + w * len(lanes), 0, 1, lanes)
                tile = add_vectors(tile, padded, at + w * stride * len(lanes), dilation * len(lanes), factor)
        store(out, i * len(taps) * len(lanes), len(lanes), tile)


@njit
def _copy_padded(
    image: Any, padded: Any, height: int, width: int, channels: int, radius: int, rectify: bool, lanes: Any
) -> None:
    """Image (H, W, C) into the inside of (blocks, H + 2 radius, W + 2 radius, lanes)."""
    row = (width + 2 * radius) * len(lanes)
    for block in range(channels // len(lanes)):
        inside = (block * (height + 2 * radius) + radius) * row + radius * len(lanes)
        for h in range(height):
            for w in range(width):
                tile = load(image, (h * width + w) * channels + block * len(lanes), 0, 1, lanes)
                if rectify:
                    tile = where_positive(tile, tile)
                store(padded, inside + h * row + w * len(lanes), 0, tile)


@njit
def _blocked_weights(jobs: Any, channels: int, flip: bool, like: Any, lanes: Any) -> Any:
    """Weights of all jobs as (jobs, blocks, 49, lanes), mirrored if asked."""
    blocked = np.zeros((len(jobs), channels // len(lanes), 49, len(lanes)), like.dtype)
    for job in range(len(jobs)):
        taps = jobs[job, KERNEL] * jobs[job, KERNEL]
        weight = pointer(jobs[job, WEIGHT], like)
        for c in range(channels):
            for tap in range(taps):
                source = taps - 1 - tap if flip else tap
                blocked[job, c // len(lanes), tap, c % len(lanes)] = weight[c * taps + source]
    return blocked


@njit
def keep_alive(array: Any) -> None:
    """Use an array for the last time: Numba frees it after that, and pointers into it would not count as uses."""


@kernel
def forward(
    part: int, first: int, last: int, inputs: Any, jobs: Any, height: int, width: int, channels: int, stride: int,
    radius: int, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Outputs of all jobs for the images `first` to `last` - 1.

    Args:
        part: not used, every image has its own output.
        first: first image.
        last: image after the last one.
        inputs: (I,) addresses of the inputs, each (N, H, W, C), rectified here.
        jobs: (J, columns), ordered by input.
        height: H, in pixels.
        width: W, in pixels.
        channels: C, a multiple of the lanes.
        stride: 1 or 2.
        radius: half the size of the widest dilated kernel, in pixels.
        like: an array of the tensors' dtype.
        lanes: a tuple as long as a register.
    """
    blocks = channels // len(lanes)
    out_height, out_width = (height + stride - 1) // stride, (width + stride - 1) // stride
    row = (width + 2 * radius) * len(lanes)
    weights = _blocked_weights(jobs, channels, False, like, lanes)
    scratch = np.zeros(blocks * (height + 2 * radius) * row, like.dtype)
    padded = pointer(scratch.ctypes.data, like)
    for image in range(first, last):
        current = -1
        for job in range(len(jobs)):
            if jobs[job, INPUT] != current:
                current = jobs[job, INPUT]
                address = inputs[current] + image * height * width * channels * like.itemsize
                _copy_padded(pointer(address, like), padded, height, width, channels, radius, True, lanes)
            kernel, dilation = jobs[job, KERNEL], jobs[job, DILATION]
            shift = radius - kernel // 2 * dilation
            output = jobs[job, OUTPUT] + image * out_height * out_width * channels * like.itemsize
            for block in range(blocks):
                origin = (block * (height + 2 * radius) + shift) * row + shift * len(lanes)
                _filter(
                    padded, origin, row, pointer(weights[job, block].ctypes.data, like),
                    pointer(output + block * len(lanes) * like.itemsize, like), out_height, out_width, channels,
                    kernel, dilation, stride, False, lanes,
                )  # fmt: skip
    keep_alive(scratch)
    keep_alive(weights)


@kernel
def backward(
    part: int, first: int, last: int, inputs: Any, input_gradients: Any, jobs: Any, height: int, width: int,
    channels: int, stride: int, radius: int, like: Any, lanes: Any,
) -> None:  # fmt: skip
    """Gradients of inputs and weights; arguments as for `forward`.

    Args:
        part: which part of the weights' gradients to write.
        first: first image.
        last: image after the last one.
        inputs: (I,) addresses.
        input_gradients: (I,) addresses of the inputs' gradients, like the inputs.
        jobs: (J, columns).
        height: H.
        width: W.
        channels: C.
        stride: 1 or 2.
        radius: as for `forward`.
        like: as for `forward`.
        lanes: as for `forward`.
    """
    blocks = channels // len(lanes)
    out_height, out_width = (height + stride - 1) // stride, (width + stride - 1) // stride
    row, out_row = (width + 2 * radius) * len(lanes), (out_width + 2 * radius) * len(lanes)
    weights = _blocked_weights(jobs, channels, stride == 1, like, lanes)
    gradients = np.zeros((len(jobs), blocks, 49, len(lanes)), like.dtype)
    scratch = np.zeros(blocks * (height + 2 * radius) * row, like.dtype)
    out_scratch = np.zeros(blocks * (out_height + 2 * radius) * out_row, like.dtype)
    sums = np.zeros((blocks, height * width * len(lanes)), like.dtype)
    padded, out_padded = pointer(scratch.ctypes.data, like), pointer(out_scratch.ctypes.data, like)
    for image in range(first, last):
        for job in range(len(jobs)):
            current = jobs[job, INPUT]
            offset = image * height * width * channels * like.itemsize
            if job == 0 or current != jobs[job - 1, INPUT]:
                source = pointer(inputs[current] + offset, like)
                _copy_padded(source, padded, height, width, channels, radius, True, lanes)
                sums[:] = 0
            kernel, dilation = jobs[job, KERNEL], jobs[job, DILATION]
            shift = radius - kernel // 2 * dilation
            output = jobs[job, OUTPUT] + image * out_height * out_width * channels * like.itemsize
            _copy_padded(pointer(output, like), out_padded, out_height, out_width, channels, radius, False, lanes)
            for block in range(blocks):
                origin = (block * (height + 2 * radius) + shift) * row + shift * len(lanes)
                out_block = block * (out_height + 2 * radius) * out_row
                out_origin = out_block + shift * out_row + shift * len(lanes)
                inside = out_block + radius * out_row + radius * len(lanes)
                weight = pointer(weights[job, block].ctypes.data, like)
                gradient = pointer(gradients[job, block].ctypes.data, like)
                target = pointer(sums[block].ctypes.data, like)
                if stride == 1:
                    _filter(
                        out_padded, out_origin, out_row, weight, target, height, width, len(lanes), kernel, dilation,
                        1, True, lanes,
                    )  # fmt: skip
                else:
                    out_block_pointer = pointer(out_scratch.ctypes.data + out_block * like.itemsize, like)
                    _spread(out_block_pointer, radius, out_row, weight, target, height, width, kernel, dilation, lanes)
                if kernel == 3:
                    _correlate(
                        padded, origin, row, out_padded, inside, out_row, gradient, out_height, out_width, _THREE,
                        dilation, stride, lanes,
                    )  # fmt: skip
                elif kernel == 5:
                    _correlate(
                        padded, origin, row, out_padded, inside, out_row, gradient, out_height, out_width, _FIVE,
                        dilation, stride, lanes,
                    )  # fmt: skip
                else:
                    _correlate(
                        padded, origin, row, out_padded, inside, out_row, gradient, out_height, out_width, _SEVEN,
                        dilation, stride, lanes,
                    )  # fmt: skip
            if job == len(jobs) - 1 or current != jobs[job + 1, INPUT]:
                source = pointer(inputs[current] + offset, like)
                result = pointer(input_gradients[current] + offset, like)
                for block in range(blocks):
                    summed = pointer(sums[block].ctypes.data, like)
                    for p in range(height * width):
                        at = p * channels + block * len(lanes)
                        masked = where_positive(
                            load(source, at, 0, 1, lanes), load(summed, p * len(lanes), 0, 1, lanes)
                        )
                        store(result, at, 0, masked)
    for array in (scratch, out_scratch):
        keep_alive(array)
    keep_alive(weights)
    keep_alive(sums)
    for job in range(len(jobs)):
        taps = jobs[job, KERNEL] * jobs[job, KERNEL]
        target = pointer(jobs[job, GRADIENT] + part * jobs[job, PART_STRIDE] * like.itemsize, like)
        for c in range(channels):
            for tap in range(taps):
                target[c * taps + tap] = gradients[job, c // len(lanes), tap, c % len(lanes)]
