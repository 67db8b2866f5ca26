"""The code interpreter of a sandbox: runs cells of code in Jupyter kernels and streams what they produce."""
