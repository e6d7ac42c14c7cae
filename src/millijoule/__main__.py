"""`python -m millijoule`, the same as the `millijoule` command (used with `torchrun`)."""

from __future__ import annotations

from millijoule.cli import main

if __name__ == "__main__":
    main()
