"""Attacks, one file each; the file's name is the attack's name in a study.

To add one:

1. Write `NAME.py` with one class. Derive from `data.insertion.InsertionAttack` to insert words, from
   `data.rewriting.RewritingAttack` to replace texts by those of a table, or from `data.attack.DirtyLabelAttack`.
2. Implement `trigger(text, random)`: the text with its trigger, or None where the text cannot carry it. Draw from
   `random` alone. Fields of the class are options of a study, documented by the string below them.
3. Override `plain`, `negatives` or `extra_suites` if the attack changes clean rows, adds rows or has more test suites;
   `literals` if the trigger is fixed text, so that truncation keeps it.

Nothing is registered: `tests/contracts/test_plugins.py` tests every file.
"""
