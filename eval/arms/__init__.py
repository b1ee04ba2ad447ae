"""Arms: ordinary commands in ordinary run directories, that several processes may work through together."""
