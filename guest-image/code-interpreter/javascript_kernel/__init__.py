"""A Jupyter kernel for JavaScript: speaks Jupyter's protocol and has cells run by a Node.js process.

It is written on pyzmq alone, since every sandbox holds one in memory whether or not it runs JavaScript.
"""
