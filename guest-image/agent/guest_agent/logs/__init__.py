"""What happened in the sandbox lately, for the node to collect."""
