"""Check whether the cluster is fit to be measured: facts of every node, what they mean, and how to fix them.

facts.py is the data; collect.py and its helpers run on the nodes; versions.py, environment.py, host.py and network.py
turn facts into findings, and touch nothing; examination.py does it for a cluster.
"""
