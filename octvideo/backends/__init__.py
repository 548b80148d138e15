"""Run networks with PyTorch, OpenVINO or ONNX Runtime, export them, and keep what was converted."""
