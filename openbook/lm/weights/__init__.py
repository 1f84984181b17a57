"""Checkpoints: GGUF and safetensors files, their configs and names."""
