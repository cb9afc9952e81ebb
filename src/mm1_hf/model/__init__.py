"""Everything that travels to the Hub beside the weights: one flat folder, no imports from above."""
