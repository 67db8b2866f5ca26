"""Who may call what: the access token, signed file URLs, and where /init may come from."""
