"""The page of `eval.report`: pictures, sections, and the HTML document that they stand in."""
