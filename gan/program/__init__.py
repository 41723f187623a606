"""What the programs of `gan` share, and nothing that the library needs."""
