"""What latents are like, without a generator: how far they move, where their variance lies, how smooth they are, and
what of it has been shown to matter."""
