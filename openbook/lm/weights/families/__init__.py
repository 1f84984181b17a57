"""The families of models: importing this package registers them all."""

from openbook.lm.weights.families import bert, falcon, gemma, gpt2, llama, moe, phi, qwen

__all__ = ["bert", "falcon", "gemma", "gpt2", "llama", "moe", "phi", "qwen"]
