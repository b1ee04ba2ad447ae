"""How published code makes FVD, KVD and IS, and following it."""
