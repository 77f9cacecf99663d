"""HTTP: parses, guards, tokenises, streams. Talks to an `EngineClient`; loads no engine, no model and no kernels."""
