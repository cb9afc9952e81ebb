"""The main job: a small MM1 learns to read real handwritten digits, in minutes, without a GPU."""
