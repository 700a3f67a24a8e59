"""From results to answers: tables beside the paper, delta rows, claims with verdicts.

    report = build(open_store("outputs"), ["table2", "lab/table2"])     # cft_lab.report.build
    print(render(report, "md"))                                         # cft_lab.report.render

`tables` and `claims` hold what is reported, as numbers; whatever shows them (`render`, the page, notebooks) needs nothing else.
"""
