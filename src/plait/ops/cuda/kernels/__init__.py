"""Triton kernels, one file each with its launcher. Knows tensors; knows no program, no step and no weight's name."""
