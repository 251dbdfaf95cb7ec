"""Triton kernels for GPUs; PyTorch's operations beside them are the reference, and what runs without Triton."""
