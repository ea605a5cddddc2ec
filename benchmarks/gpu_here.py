# SPDX-License-Identifier: Apache-2.0
"""For the Makefile: exits with 0 if torch finds a GPU; else prints what is skipped and why, and exits with 1."""

import sys


def missing() -> str | None:
    """Why there is no GPU to use; None where there is one."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA"
    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU"


def main() -> int:
    """The first argument names what is skipped."""
    reason = missing()
    if reason is None:
        return 0
    print(f"{sys.argv[1] if len(sys.argv) > 1 else 'this'}: skipped, since {reason}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
