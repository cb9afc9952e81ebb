"""Few-shot and zero-shot evaluation on published benchmarks."""
