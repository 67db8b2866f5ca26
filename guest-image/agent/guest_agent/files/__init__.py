"""GET and POST /files: moving file contents over plain HTTP."""
