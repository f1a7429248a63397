"""How the demo model in the package was made: pictures, questions, vocabulary, training, marks.

`python -m tools.train_demo train` makes it again; `… evaluate` marks it on unseen drawings.
"""
