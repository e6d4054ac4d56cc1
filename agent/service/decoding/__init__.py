"""Language models: their processes, their room in memory, and answers made of repeated samples."""
