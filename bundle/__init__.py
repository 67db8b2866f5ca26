"""The offline bundle: everything an appliance is installed from, on a machine that reaches no registry.

    debian/    packages and their closure, as an apt repository
    wheels/    the appliance and its Python dependencies
    bin/       programs that Debian does not package
    guest/     kernel, initramfs and agent disk of the guests
    images/    OCI layouts that templates are made from
    SHA256SUMS what the bundle consists of: the installer refuses a file that is missing, changed or unknown

`python -m bundle` builds it. Each stage is skipped while its inputs are what they were.
"""
