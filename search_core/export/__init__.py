"""A trained child outside this project: as readable Python, weights, ONNX and PyTorch's exported program."""

from search_core.export.formats import FORMATS, ExportedFile, export_child, missing_for_onnx

__all__ = ["FORMATS", "ExportedFile", "export_child", "missing_for_onnx"]
