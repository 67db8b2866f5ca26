"""Watching directories: inotify, trees of watches, and the RPCs on top."""
