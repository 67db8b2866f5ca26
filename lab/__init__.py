"""The lab: a whole appliance on this host, made and removed by `make up` and `make down`.

Standard library only: this runs before anything is installed.
"""
