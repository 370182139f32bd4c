"""`python -m packqvit_delegate` is `packqvit`, where the PATH does not have it."""

from .cli.app import main

if __name__ == "__main__":
    main()
