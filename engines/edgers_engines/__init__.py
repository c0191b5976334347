"""The device side of edgers: turns pixels and a prompt into answers, on ONNX Runtime."""
