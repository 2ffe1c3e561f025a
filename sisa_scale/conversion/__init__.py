"""Trained models in other forms: safetensors, Hugging Face, the paper's files; averages and differences of weights."""
