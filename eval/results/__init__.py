"""Results files, and tables of them beside the published ones."""
