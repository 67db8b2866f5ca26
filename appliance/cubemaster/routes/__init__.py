"""Routes parse, call one service function, and map the result."""
