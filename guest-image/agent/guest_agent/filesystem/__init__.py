"""filesystem.Filesystem: looking at and changing the tree."""
