"""What a parent and its engine process say to each other: records, messages, framing, and the page of memory that
outlives the engine. Knows plain data; loads no engine and no arrays."""
