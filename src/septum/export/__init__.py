"""Models for other programs (ONNX, bioimage.io), and results for other programs."""
