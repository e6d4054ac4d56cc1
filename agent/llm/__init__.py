"""Language models: GGUF files become ONNX decoders, and decoders write text."""
