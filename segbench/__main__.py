"""`python -m segbench` is `segbench`."""

from segbench.cli import main
from segbench.code.own import move_current_folder_last

if __name__ == "__main__":
    move_current_folder_last()
    main()
