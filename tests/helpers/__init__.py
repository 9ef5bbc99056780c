"""What tests share: scenes, the float64 reference, comparisons, captures, files."""
