"""rankwright: low-rank fine-tuning methods as small files over one engine."""
