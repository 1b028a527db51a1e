"""Defenses, one file each; the file's name is the defense's name in a study.

To add one:

1. Write `NAME.py` with one class. Derive from `data.defense.DataDefense` to rewrite training rows, from
   `data.defense.EditDefense` to rewrite test texts, from `data.defense.TrustedRows` to train on trusted rows alone, or
   from `data.defense.Defense`.
2. Implement `defend_train(view)` or `edit(rows, scores)`, and override `stages(build, rows)` to ask for further
   trainings, row scores or another evaluation (`config.builder.Builder`).
3. State what the defense assumes in `default_assumptions`, and refuse studies that it does not fit in
   `incompatibility`.

Nothing is registered: `tests/contracts/test_plugins.py` and `test_defenses_run.py` test every file.
"""
