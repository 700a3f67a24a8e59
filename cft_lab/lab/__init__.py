"""The lab world: word problems with exact solutions, realistic mistakes, an oracle teacher and tiny base models.

A place to study critique fine-tuning in minutes on two CPU cores. It is a world of its own: nothing measured in it is
a number of the paper. `WORLD_VERSION` is part of the key of every stage that reads the world; raise it with any
change to what the world produces, and old results stay on record under their own keys.
"""

WORLD_VERSION = 2
