"""Speed and memory of every stage. Nothing imports this package."""
