"""The families of models: importing this package registers them all."""

from openbook.lm.weights.families import bart, bert, falcon, gemma, gpt2, llama, moe, own, phi, qwen, t5

__all__ = ["bart", "bert", "falcon", "gemma", "gpt2", "llama", "moe", "own", "phi", "qwen", "t5"]
