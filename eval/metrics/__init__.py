"""Pure functions from arrays to numbers, float64 inside."""
