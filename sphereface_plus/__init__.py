"""Face recognition with angular margins: heads, backbones, faces on disk, verification."""
