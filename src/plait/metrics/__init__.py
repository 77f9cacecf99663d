"""What the engine did, in numbers: records, the catalogue of metrics, aggregation, export and advice."""
