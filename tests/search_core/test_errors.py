from __future__ import annotations

import pytest
import torch

from search_core.errors import is_out_of_gpu_memory

#: As PyTorch words them: its allocator, CUDA itself, two libraries of CUDA, and NCCL.
OUT_OF_GPU_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
]


@pytest.mark.parametrize("error", OUT_OF_GPU_MEMORY, ids=str)
def test_every_face_of_a_full_gpu_is_known(error: Exception) -> None:
    assert is_out_of_gpu_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("size mismatch"),
        MemoryError("out of memory"),
        ValueError("the file says: CUDA out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_a_full_gpu(error: Exception) -> None:
    assert not is_out_of_gpu_memory(error)
