"""The parent's side of the engine process: start, watch, restart, replay. Loads no kernels, model or scheduler."""
