"""``python -m osler.cli``, for where the script is not on the path."""

from osler.cli import main

main()
