"""What the timing programs share."""
