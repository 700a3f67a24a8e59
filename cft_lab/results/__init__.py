"""What a store holds, as pandas DataFrames: cells, scores, items, costs, texts.

    from cft_lab.results import open_store
    results = open_store("outputs")
    results.cells()                                    # one row for each finished cell
    results.scores()                                   # one row for each cell and benchmark
    results.items(["9a0caa20e24ce64c"], ["lab-basic"])   # one row for each draw of an item
    results.problems                                   # what could not be read, and what to do about it

Nothing here writes to the store. Accuracies are fractions. Columns are named in the docstrings of `Results`.
"""

from cft_lab.results.api import Results, open_store
from cft_lab.results.store_reader import CellRecord, Problem

__all__ = ["CellRecord", "Problem", "Results", "open_store"]
