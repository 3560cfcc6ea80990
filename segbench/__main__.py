"""`python -m segbench` is `segbench`."""

from segbench.cli import main

if __name__ == "__main__":
    main()
