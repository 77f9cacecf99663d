"""The PyTorch + Triton kernel library for CUDA GPUs."""
