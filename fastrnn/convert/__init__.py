"""Conversion of model files of other libraries."""

from fastrnn.convert.c_source import export_c
from fastrnn.convert.files import convert

__all__ = ["convert", "export_c"]
