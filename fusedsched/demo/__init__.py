# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched demo`: a small language model, trained with fusedsched and with torch.optim, side by side."""

from fusedsched.demo.command import main as main
