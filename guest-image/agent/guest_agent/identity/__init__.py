"""What makes a clone its own machine: clock, entropy, host name, machine id, marker files."""
