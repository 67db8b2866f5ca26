"""What CubeMaster does when it is asked."""
