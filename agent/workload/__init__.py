"""Reads operator graphs (ONNX, TFLite) into workloads: stages with operations and bytes."""
