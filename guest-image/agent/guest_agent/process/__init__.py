"""process.Process: starting programs as any user and streaming what they say."""
