"""What `eval.ablation` is made of: studies as files, their plans, and the tables that they end with."""
