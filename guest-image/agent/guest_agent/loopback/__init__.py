"""Making services that listen on loopback alone reachable from outside: development servers do so by default."""
