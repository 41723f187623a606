"""What the programs of `sphereface_plus` share, and nothing that the library needs."""
