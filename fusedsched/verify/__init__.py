# SPDX-License-Identifier: Apache-2.0
"""Whether this machine's results can be trusted: `python -m fusedsched verify`.

A check is a row (`check.Check`). Each kind of check has a module with `checks(level)`, and `left_out(level)` where a
machine may lack what it needs: `updates`, `evaluators`, `agreement`, `edges`, `skipping`, `resuming`, `compiling`,
`replaying`. `command` runs them, `report` and `attachment` tell.
"""
