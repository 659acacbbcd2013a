"""fastrnn as a backend of onnx (issue 6)."""
