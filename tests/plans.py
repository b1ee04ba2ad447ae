"""How the small studies of tests begin: data, seeds, and the commands that every study has."""

STUDY_HEAD = """
data = "moving_shapes"
seeds = [0, 1]
[tokenizer.train]
preset = "demo"
[tokenizer.images]
steps = 2
[generator.train]
preset = "demo"
steps = 2
[eval.fvd]
samples = 4
"""
