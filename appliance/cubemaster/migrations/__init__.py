"""Schema changes, oldest first. Expand in one release, contract in a later one; a released one is never edited.

A release runs on the schema of the next, so that `rollback.yml` needs no downgrade.
"""
