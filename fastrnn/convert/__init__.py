"""Conversion of model files of other libraries."""

from fastrnn.convert.files import convert

__all__ = ["convert"]
