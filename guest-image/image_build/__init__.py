"""Builds everything that runs inside a sandbox: kernel, initramfs, agent disk and base images."""
