"""Tokenizers of others behind one interface: by name, from a folder of diffusers, or a class of the user's own."""
