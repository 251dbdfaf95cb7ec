"""A trained child outside this project: as readable Python, weights, ONNX and PyTorch's exported program."""

from search_core.export.formats import FORMATS, ExportedFile, export_child, missing_for_onnx
from search_core.export.pixels import PixelChild

__all__ = ["FORMATS", "ExportedFile", "PixelChild", "export_child", "missing_for_onnx"]
