"""`python -m probe`."""

from __future__ import annotations

from probe.cli import main

if __name__ == "__main__":
    main()
