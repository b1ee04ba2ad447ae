"""What `eval.compare` is made of: its plan, the tables that it ends with, and its page."""
