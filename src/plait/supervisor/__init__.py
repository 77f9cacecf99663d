"""The parent's side of the engine process: start, watch, restart, replay. Loads no kernels, no model and no scheduler."""
