"""What the tokens of a generator know: small heads on frozen features, and answers that know nothing beside them."""
