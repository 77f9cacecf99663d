"""The C++ kernel library for CPUs."""
