"""A training step recorded once as a CUDA graph and replayed: one launch in place of ten thousand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_EAGER_STEPS = 3  # libraries set themselves up in their first calls, which must not be recorded


class GraphedStep:
    """Call a function of tensors through a CUDA graph.

    The first calls run as they are, on a stream of their own; the next one records the graph. From then on calls copy
    their inputs to where the graph reads them, and replay it. All else that the function reads or writes must stay in
    its place in memory; Python numbers in it are frozen until `forget`. Run on a pretended GPU only, so far: see
    docs/benchmarks.md.

    Args:
        function: maps tensors to a tuple of tensors, all on one CUDA device and of the same shapes in every call,
            without host synchronisation.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._remaining = _EAGER_STEPS
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's results, in memory of their own."""
        if self._remaining > 0:
            self._remaining -= 1
            return self._on_side_stream(inputs)
        if self._graph is None:
            self._inputs = tuple(tensor.clone() for tensor in inputs)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile, such as the one in which a loader pins its batches.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._outputs = self._function(*self._inputs)
            self._graph = graph
        else:
            for place, tensor in zip(self._inputs, inputs, strict=True):
                place.copy_(tensor)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def forget(self) -> None:
        """Record again, because a number has changed."""
        self._graph, self._inputs, self._outputs = None, (), ()

    def start_over(self) -> None:
        """Run once more as it is and then record again, because a place in memory has changed or is not there yet."""
        self.forget()
        self._remaining = _EAGER_STEPS

    def _on_side_stream(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        current = torch.cuda.current_stream()
        self._stream = torch.cuda.Stream() if self._stream is None else self._stream
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = self._function(*inputs)
        current.wait_stream(self._stream)
        return results
