"""The workstation side of edgers: Hugging Face checkpoints become bundles of ONNX graphs."""
