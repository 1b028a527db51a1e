"""Tasks, one file each; the file's name is the task's name in a study. Rows that need no code fit the task `custom`.

To add one:

1. Write `NAME.py` with one class. Derive from `data.classification.ClassificationTask` (set `class_names`) or from
   `data.generation.GenerationTask` (set `judge` and `response_key`); both need `licence`.
2. Set `hub` if the rows are on the Hugging Face hub, pinned to a commit; override `check(row)` or `from_hub(row)` if
   their keys differ.
3. Show a row and its prompt with the answer in the module's docstring, as `sst2.py` does.

Nothing is registered: `tests/contracts/test_plugins.py` tests every file and renders the docstring's row.
"""
