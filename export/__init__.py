"""Trained weights -> ONNX -> engines -> bundle -> structures."""
