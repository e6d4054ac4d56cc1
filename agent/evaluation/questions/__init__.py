"""Questions with known answers: read or generated, asked of a model, scored by strategy, reported."""
