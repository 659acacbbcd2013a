"""Models of other libraries: files in and out, compared with their source."""

from fastrnn.convert.files import convert

__all__ = ["convert"]
