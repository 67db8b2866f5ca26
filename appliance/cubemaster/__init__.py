"""CubeMaster: scheduling, state and the template catalogue; the only owner of the database."""
