"""A training step recorded once as a CUDA graph and replayed: one launch in place of ten thousand."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from search_core.errors import is_out_of_gpu_memory
from search_core.strategies.base import SearchContext

_EAGER_STEPS = 3  # libraries set themselves up in their first calls, which must not be recorded


def graphed(function: Callable[..., tuple[Tensor, ...]], context: SearchContext) -> GraphedStep | None:
    """A training step as the context wants it: through a CUDA graph, or None."""
    return None if context.cuda_graph is False else GraphedStep(function, is_required=context.cuda_graph is True)


class GraphedStep:
    """Call a function of tensors through a CUDA graph.

    The first calls run as they are, on a stream of their own; the next one records the graph. From then on calls copy
    their inputs to where the graph reads them, and replay it. All else that the function reads or writes must stay in
    its place in memory; Python numbers in it are frozen. Run on a pretended GPU only, so far: see docs/benchmarks.md.

    Args:
        function: maps tensors to a tuple of tensors, all on one CUDA device and of the same shapes in every call,
            without host synchronisation.
        is_required: whether a recording that fails is an error; if not, calls run as they are from then on, and a
            warning says why. Without memory on the GPU it is always one.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *, is_required: bool) -> None:
        self._function, self._is_required = function, is_required
        self._remaining = _EAGER_STEPS
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._has_failed = False

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's results, in memory of their own."""
        if self._has_failed:
            return self._function(*inputs)
        if self._remaining > 0:
            self._remaining -= 1
            return self._on_side_stream(inputs)
        if self._graph is None:
            self._record(inputs)
            if self._graph is None:
                return self._function(*inputs)
        else:
            for place, tensor in zip(self._inputs, inputs, strict=True):
                place.copy_(tensor)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def start_over(self) -> None:
        """Run some calls as they are and then record again: a place in memory has changed or is not there yet."""
        self._graph, self._inputs, self._outputs = None, (), ()
        self._remaining = _EAGER_STEPS

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        places, graph = tuple(tensor.clone() for tensor in inputs), torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate meanwhile, such as the one in which a loader pins its batches.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._function(*places)
        except RuntimeError as error:
            if self._is_required or is_out_of_gpu_memory(error):
                raise
            self._has_failed = True
            warnings.warn(f"no CUDA graph of a step, as it could not be recorded: {error}", stacklevel=2)
            return
        self._graph, self._inputs, self._outputs = graph, places, outputs

    def _on_side_stream(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        current = torch.cuda.current_stream()
        self._stream = torch.cuda.Stream() if self._stream is None else self._stream
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = self._function(*inputs)
        current.wait_stream(self._stream)
        return results
