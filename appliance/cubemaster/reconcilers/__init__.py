"""Loops that bring the world to what the rows say."""
