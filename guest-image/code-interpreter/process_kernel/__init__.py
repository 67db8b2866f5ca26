"""A Jupyter kernel that speaks Jupyter's protocol and has cells run by another process: Node.js or bash.

It is written on pyzmq alone, since every sandbox holds one in memory whether or not it runs JavaScript.
"""
