"""From models, board and policy to placements: whole, staged and split, searched in a process of its own."""
