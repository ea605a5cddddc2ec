# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched verify`: whether the results of this machine can be trusted.

A check is a row (`check.Check`). Each kind of check is a module with `checks(level)`, and with `left_out(level)` if a
machine may lack something for it: `updates`, `evaluators`, `agreement`, `edges`, `skipping`, `resuming`, `compiling`,
`replaying`. `command` runs them, `report` prints and saves the results.
"""
