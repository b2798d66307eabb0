"""`python -m evostreaming` is `evostreaming`."""

from .cli import main

main()
